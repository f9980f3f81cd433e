"""Place: experts on devices."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.arrow import pc
from ....store.deliver.placement_files import placement_file
from ....store.views.deploy.decide import decide_placement
from ....store.views.deploy.placements import METHODS, Cluster
from ...figures import deploy as figures
from ...sentences.deploy import dispatch_answer, named, placement_answer, with_names
from ...shell import messages, show
from ...shell.page_context import PageContext
from .parts import decided, notes, take, window_text

SECONDS = 0.3
AT_ONCE = 4096
"""Experts of all layers up to which moves are worked out unasked: an integer program a layer and number of devices."""
_NUMBER = st.column_config.NumberColumn
RESIZED = {
    "new_devices": _NUMBER("devices then"),
    "moves": _NUMBER("experts that move", format="localized"),
    "experts": _NUMBER("of", format="localized"),
    "moved_bytes": _NUMBER("bytes that move", format="bytes"),
    "balancedness_before": _NUMBER("balancedness now", format="percent"),
    "balancedness": _NUMBER("balancedness then", format="percent"),
}


def draw(context: PageContext) -> None:
    """Controls, the answer, placements side by side, the file, what-if, dispatch."""
    ask = _controls(context)
    table = decided(lambda: context.view("placement", **ask), "No placement")
    if table is None:
        return
    whole = table.filter(pc.is_null(table["layer"]))
    methods = [name for name in METHODS if name != "random"]
    fitted = dict(zip(whole["method"].to_pylist(), whole["fitted"].to_pylist(), strict=True))
    best = max(methods, key=fitted.__getitem__)
    method = st.selectbox("Placement to take", methods, index=methods.index(best), key="place.method", width=220,
                          format_func=named,
                          help="The most even one on the prompts of the fit is chosen beforehand.")  # fmt: skip
    messages.say(placement_answer(table, method))
    with st.container(horizontal=True, gap="small"):
        take(
            "SGLang's expert location",
            lambda: _file(context, ask, method, "sglang"),
            "placement.json",
            key="place.sglang",
        )
        st.download_button(
            "CSV",
            lambda: _file(context, ask, method, "csv"),
            file_name="placement.csv",
            on_click="ignore",
            key="place.csv",
        )
    show.chart(
        lambda theme: figures.alternatives(
            with_names(whole, "method"), "method", "balancedness",
            label="balancedness on held-out prompts (mean / busiest device)", chosen=named(method), reference=1.0,
            theme=theme,
        ),
        whole, name="placements", title="Placements of experts: balancedness on held-out prompts",
        say="Bars: held-out prompts, all layers, each waiting for its busiest device; lines: 95 %.",
        python=context.snippet("placement", **ask),
    )  # fmt: skip
    _links(context, whole, ask, method)
    notes(table)
    _dispatch(context, ask, method)
    _resize(context, ask)


def _controls(context: PageContext) -> dict[str, Any]:
    experts = max(router.num_experts for router in context.routers())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        devices = st.number_input(
            "Devices", 1, experts, min(8, experts), key="devices", bind="query-params", width=130
        )
        nodes = st.number_input("Nodes", 1, 64, 1, key="nodes", bind="query-params", width=130)
        replicas = st.number_input("Extra slots", 0, 4096, 0, key="replicas", bind="query-params", width=150,
                                   help="For copies of busy experts, over all devices; EPLB uses them.")  # fmt: skip
    return {"devices": int(devices), "nodes": int(nodes), "replicas": int(replicas), "layers": window_text(context),
            "seconds": SECONDS}  # fmt: skip


def _links(context: PageContext, whole: pa.Table, ask: dict[str, Any], method: str) -> None:
    if whole["remote_share"].null_count == whole.num_rows:
        return
    show.chart(
        lambda theme: figures.alternatives(
            with_names(whole.drop_columns(["low", "high"]), "method"), "method", "remote_share",
            label="share of what goes from a layer to the next that changes the device", chosen=named(method),
            theme=theme,
        ),
        whole, name="placement-links", title="Placements of experts: what changes the device",
        say="Copies of an expert are taken to share its traffic evenly; an engine that prefers near ones does better.",
        python=context.snippet("placement", **ask),
    )  # fmt: skip


def _dispatch(context: PageContext, ask: dict[str, Any], method: str) -> None:
    st.subheader("What does each device send to each?", anchor=False)
    given = {"devices": ask["devices"], "method": method, "layers": ask["layers"]}
    table = decided(lambda: context.view("dispatch", **given), "No dispatch matrix")
    if table is None:
        return
    layer = st.selectbox("Layer", sorted(set(table["layer"].to_pylist())), key="dispatch layer", width=120)
    rows = table.filter(pc.equal(table["layer"], layer))
    messages.say(dispatch_answer(rows, method))
    columns = {"from": "a", "to": "b"}
    matrix = rows.rename_columns([columns.get(name, name) for name in rows.column_names])
    show.chart(
        lambda theme: figures.squares(
            matrix, "share", label="share of what is sent", value_format=".1%", side=26, theme=theme,
            across="to the device of the expert", up="from the device of the token",
        ),
        rows, name=f"dispatch-{layer}", title=f"Layer {layer}: what each device sends to each",
        say="The diagonal stays on its device.", python=context.snippet("dispatch", **given),
    )  # fmt: skip
    notes(table)


def _resize(context: PageContext, ask: dict[str, Any]) -> None:
    st.subheader("What if there were more or fewer devices?", anchor=False)
    experts = max(router.num_experts for router in context.routers())
    now = ask["devices"]
    others = sorted({n for n in (now // 2, now * 2, now - 1, now + 1) if 0 < n <= experts and n != now})
    if not others or experts % now:
        messages.say("No other number of devices divides these experts.")
        return
    many = sum(router.num_experts for router in context.routers())
    if many > AT_ONCE and not st.toggle(
        f"work out which experts move: an integer program for each of {len(context.routers())} layers",
        key="place.resize",
    ):
        return
    given = {"devices": now, "to": ",".join(map(str, others)), "layers": ask["layers"]}
    table = decided(lambda: context.view("resize", **given), "No what-if")
    if table is None:
        return
    show.table(
        table, name="resize", say="Experts that move from a largest-first placement, and how even loads then are.",
        columns=RESIZED, order=[name for name in RESIZED if table[name].null_count < table.num_rows],
        height="content", python=context.snippet("resize", **given),
    )  # fmt: skip


def _file(context: PageContext, ask: dict[str, Any], method: str, form: Any) -> str:
    """The placement that the picture shows, made again: figures keep tables, not placements."""
    from ....store.views.options import Routers

    made = decide_placement(
        context.trace, Cluster(devices=ask["devices"], nodes=ask["nodes"], replicas=ask["replicas"]),
        tokens=context.token_filter(),
        routers=Routers(layers=ask["layers"], stream=context.stream), seconds=SECONDS,
    )  # fmt: skip
    return placement_file(
        form, made.loads.layers, made.chosen(method).physical_LR, made.loads.fit_LE, ask["devices"],
        model_layers=context.trace.manifest.model.get("layers"),
    )  # fmt: skip
