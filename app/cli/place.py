"""`moescope place`: where to put experts."""

from __future__ import annotations

from typing import Any

import click

from ...store.files.whole import write_whole
from .decision_options import Decision, decision, say
from .output import Lines, open_with_warnings


@click.command("place")
@click.argument("trace")
@click.option(
    "--devices", default=8, show_default=True, type=click.IntRange(1), help="GPUs of the whole cluster."
)
@click.option(
    "--replicas",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Extra slots for copies of busy experts (EPLB).",
)
@click.option(
    "--nodes",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Machines (nodes) that hold the devices.",
)
@click.option(
    "--groups",
    type=click.IntRange(1),
    help="Expert groups that the hierarchical EPLB keeps in a node. Default: as many as nodes.",
)
@click.option(
    "--method", help="The placement to write. Default: the most even one on the prompts of the fit."
)
@click.option(
    "--seconds",
    default=1.0,
    show_default=True,
    help="Time limit of the integer program for each layer, in seconds.",
)
@click.option(
    "--format", "form", type=click.Choice(("sglang", "sglang-counts", "json", "csv")),
    help="sglang: for --init-expert-location; sglang-counts: loads, from which SGLang places by itself. "
    "Default: sglang, or csv by FILE's ending.",
)  # fmt: skip
@decision("Write the placement.")
def place_command(
    trace: str, devices: int, replicas: int, nodes: int, groups: int | None, method: str | None, seconds: float,
    form: Any, asked: Decision,
) -> None:  # fmt: skip
    """Compare six placements of experts on devices, fitted on one part of the prompts and reported on the other.

    \b
    Example:
      moescope place my-trace --devices 8 --replicas 16 --nodes 2
      moescope place my-trace --devices 8 --replicas 16 --out placement.json
      python -m sglang.launch_server ... --init-expert-location placement.json --ep-num-redundant-experts 16
    """
    from ...store.arrow import pc
    from ...store.deliver.placement_files import check_form, placement_file
    from ...store.notes import notes_of
    from ...store.views.deploy.decide import check_method, decide_placement
    from ...store.views.deploy.placements import Cluster
    from ..sentences.deploy import placement_answer

    opened, out = open_with_warnings(trace), asked.out
    check_method(method)
    model_layers = opened.manifest.model.get("layers")
    if out is not None:
        form = form or ("csv" if out.suffix.lower() == ".csv" else "sglang")
        check_form(form, asked.routers.numbers(opened), model_layers)
    made = decide_placement(
        opened,
        Cluster(devices=devices, replicas=replicas, nodes=nodes, groups=groups),
        split=asked.split,
        routers=asked.routers,
        tokens=asked.tokens,
        seconds=seconds,
        progress=Lines("placements"),
    )
    chosen = made.chosen(method)
    if out is not None:
        text = placement_file(
            form, made.loads.layers, chosen.physical_LR, made.loads.fit_LE, devices,
            model_layers=model_layers,
            about={"method": chosen.method, "notes": notes_of(made.table)},
        )  # fmt: skip
        write_whole(out, text)
    answer = placement_answer(made.table, chosen.method)
    whole = made.table.filter(pc.is_null(made.table["layer"])).drop_columns(["layer", "stream"])
    say({"chosen": chosen.method, "placements": made.table}, answer, whole, asked)
    if out is not None and form.startswith("sglang") and replicas:
        click.echo(f"note: start SGLang with --ep-num-redundant-experts {replicas}", err=True)
