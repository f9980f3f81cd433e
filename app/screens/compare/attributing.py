"""How much of the difference the choice of experts carries, measured by the model that is live.

The server runs A, A with B's routing, and B where B is the same model under a steering; the page follows that job.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store import Trace
from ....store.compare import Pairs
from ....tracer.client import RemoteJob, ServerError
from ....tracer.evaluate.attribution import WHICH, Attribution, prompts_of
from ....tracer.evaluate.effects import Evaluation
from ...sentences import agreement as sentences
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...steering import servers
from ...text import words
from ..steer import server

FEW, MOST = 24, 2_000
"""Prompts that are run: at first, and at most."""
TICK_SECONDS = 1.0
_RUN, _DONE, _LOST = "attribution running", "attribution", "attribution lost"


def draw(context: PageContext, pairs: Pairs, rules: list[dict[str, Any]]) -> None:
    """Draw what can be started, what runs, and what came out. `rules` replay B's routing."""
    if pairs.a.manifest.steering:
        messages.note("plain", f"“{context.name}” was traced under a steering, which a live model does not have by "
                      "itself: use `moescope compare A B --attribute MODEL`.")  # fmt: skip
        return
    served = server.in_precision(context, _precision(pairs.a))
    if _RUN in st.session_state:
        st.fragment(_follow, run_every=TICK_SECONDS)()
    elif served.client is None:
        _without_model(served)
    elif _precision(pairs.a) not in (None, served.about.get("dtype")):
        messages.note("plain", f"The attached model runs in {served.about.get('dtype')}, A was traced in "
                      f"{_precision(pairs.a)}: its choices are not A's. Detach it on Steer.")  # fmt: skip
    else:
        _offer(context, pairs, served, rules)
    if lost := st.session_state.get(_LOST):
        messages.card("The run failed", lost, kind="error", todo="Correct what is named, and run it again.")
    if (done := st.session_state.get(_DONE)) and done["of"] == _of(context):
        _found(done["table"], pairs)


def _of(context: PageContext) -> tuple[str, str | None]:
    return context.url, context.second_url


def _without_model(served: server.Served) -> None:
    live = served.live
    if served.attached or not served.model or served.source is None:
        messages.say("No model answers: start one, or attach to one, on Steer.")
    elif live is not None and live.state == "starting":
        server.watch(served.source)
    else:
        why = f" It ended: {live.why}" if live is not None and live.why else ""
        in_dtype = f" in {served.source.dtype}" if served.source.dtype else ""
        messages.say(f"A's model, {server.short(served.model)}, is not running{in_dtype}.{why}")
        st.button("Start A's model", key="attribute-model", on_click=_start, args=(served.source,))


def _start(source: servers.Source) -> None:
    servers.start(source)


def _offer(context: PageContext, pairs: Pairs, served: server.Served, rules: list[dict[str, Any]]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        limit = st.number_input("Prompts to run", 1, MOST, FEW, key="attribute-prompts", width=130)
        pressed = st.button("Run A with B's routing", type="primary", key="attribute-run")
    if note := _without_b(pairs):
        messages.note("plain", note)
    if pressed and served.client is not None:
        variants = {WHICH[2]: {"rules": rules}} | _steered_b(pairs)
        chat = bool(pairs.b.manifest.settings.get("chat"))
        prompts = list(prompts_of(pairs.b).limit(int(limit)))
        try:
            job = served.client.evaluate(prompts, None, variants=variants, controls=0, chat=chat)
        except ServerError as error:
            st.session_state[_LOST] = str(error)
        else:
            st.session_state.pop(_LOST, None)
            st.session_state[_RUN] = {"job": job, "of": _of(context)}
        st.rerun()


def same_model(pairs: Pairs) -> bool:
    """Whether both traces are of one model: weights, precision, and how it was loaded."""
    return pairs.a.manifest.model == pairs.b.manifest.model


def _steered_b(pairs: Pairs) -> dict[str, Any]:
    """B as a variant of A, where only a steering makes it another model."""
    steering = pairs.b.manifest.steering
    return {"B": steering} if steering and same_model(pairs) else {}


def _without_b(pairs: Pairs) -> str:
    if _steered_b(pairs):
        return ""
    if same_model(pairs):
        return "A and B are one model without a steering, so B's own distributions are A's: only the replay is run."
    return (
        "B is another model than A (the table below says how) and one model is live: the replay is run, B is not. "
        "`moescope compare A B --attribute MODEL` runs both, and says which share of the difference routing carries."
    )


def _precision(a: Trace) -> str | None:
    """Of A's model: in another one it chooses other experts, and is not A."""
    dtype = a.manifest.model.get("dtype")
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _follow() -> None:
    """The job's progress, refreshed by itself."""
    running = st.session_state.get(_RUN)
    if running is None:
        return
    job: RemoteJob = running["job"]
    status: dict[str, Any]
    try:
        status = job.status()
    except ServerError as error:
        status = {"state": "failed", "error": str(error)}
    if status["state"] in ("waiting", "running"):
        done, total = status["progress"].get("done", 0), status["progress"].get("total", 0)
        text = f"{words.count(done)} of {words.amount(total, 'step')}" if total else "waiting for the model"
        st.progress(min(1.0, done / total) if total else 0.0, text=words.label(text))
        if st.button("Cancel", key="attribute-cancel"):
            job.cancel()
        return
    st.session_state.pop(_RUN)
    if status["state"] == "complete":
        evaluation = Evaluation.from_json(status["result"]["evaluation"])
        table = Attribution.of_evaluation(evaluation).table()
        st.session_state[_DONE] = {"of": running["of"], "table": table}
    elif status["state"] == "failed":
        st.session_state[_LOST] = status["error"]
    st.rerun()


def _found(table: pa.Table, pairs: Pairs) -> None:
    share = {
        name: st.column_config.NumberColumn(title, format="percent")
        for name, title in (("share", "share of B's KL"), ("share_low", "from"), ("share_high", "to"))
    }
    kept = [name for name in table.column_names if table[name].null_count < table.num_rows]
    show.table(
        table.select(kept), name="compare-attribution", say=sentences.attribution(table), columns=share,
        python="from moescope.store import open_trace\n"
        "from moescope.tracer import load_model\n"
        "from moescope.tracer.evaluate.attribute import attribute_routing, prompts_of\n\n"
        f"a, b = open_trace({pairs.a.url!r}), open_trace({pairs.b.url!r})\n"
        "model, tokenizer = load_model(\"MODEL OF A\")\n"
        "other = model  # or B's model\n"
        "table = attribute_routing(model, other, tokenizer, b, prompts_of(b)).table()",
    )  # fmt: skip
