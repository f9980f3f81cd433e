"""Alignment: how far each language's routing departs from a pivot's, where, and whether it matters."""

from __future__ import annotations

import csv
import io
from typing import Any

import pyarrow as pa
import streamlit as st

from ...store import StoreError
from ...store.arrow import pc
from ...store.notes import notes_of
from .. import profiles, sentences_alignment, show, states, words
from ..figures import alignment as figures
from ..figures.routing_map import Hover, routing_map
from ..frame import Frame

TAUS = [round(0.05 * step, 2) for step in range(1, 13)]


def page(frame: Frame) -> None:
    """Draw the page."""
    st.title("Alignment", anchor=False)
    languages = frame.trace.tags().get("language", [])
    if len(languages) < 2:
        states.empty(
            "Nothing to align",
            "This page compares translations of one text, and the prompts of this trace have "
            f"{'one language' if languages else 'no languages'}.",
            todo="Trace a prompt set with columns language and parallel_id, such as the bundled udhr.csv.",
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        pivot = _pivot(languages)
        by_score = _by_score()
    window = _lines(frame, pivot, by_score)
    left, right = st.columns(2, gap="large")
    with left:
        _matrix(frame, pivot, window)
    with right:
        _scores(frame, pivot, window)
    steady, mixed = st.columns(2, gap="large")
    with steady:
        _by_language(
            frame, "routing-entropy", "entropy", "Routing entropy", "entropy of a sequence's mean p, nats"
        )
    with mixed:
        _by_language(
            frame,
            "routing-consistency",
            "consistency",
            "Routing consistency",
            "experts that two tokens share",
        )
    _specialised(frame, pivot, window)


def _pivot(languages: list[str]) -> str:
    first = languages.index("en") if "en" in languages else 0
    return st.selectbox(
        "Pivot language", languages, index=first, key="pivot", bind="query-params", width=220,
        format_func=lambda code: f"{words.language_name(code)} ({code})",
    )  # fmt: skip


def _layers(frame: Frame) -> str:
    """The layer window of the bar, as views take it."""
    numbers = [router.layer for router in frame.routers()]
    return f"{min(numbers)}:{max(numbers)}" if numbers else ""


def _lines(frame: Frame, pivot: str, by_score: bool) -> tuple[int, int]:
    """The main chart; returns the layers that were brushed, or all."""
    numbers = sorted({router.layer for router in frame.routers()})
    with states.loading(height=360):
        table = frame.view("alignment", pivot=pivot, layers=_layers(frame))
    color = _scores_for_color(frame) if by_score else None
    brushed = show.chart(
        lambda theme: figures.by_layer(
            table, "divergence", label=f"divergence from {words.language_name(pivot)}", theme=theme,
            scores=color, brush=True,
        ),
        table, name=f"alignment-{pivot}", key="alignment", select=figures.BRUSH,
        title=f"Routing divergence from {words.language_name(pivot)} by layer",
        say=sentences_alignment.lines(table, pivot), python=frame.snippet("alignment", pivot=pivot),
    )  # fmt: skip
    _notes(table)
    if len(numbers) < 2:
        return numbers[0], numbers[0]
    _follow_brush(brushed, numbers)
    return st.select_slider(
        "Layers for the matrix, the scores and the promoted experts (or drag over the lines)", numbers,
        value=(numbers[0], numbers[-1]), key="aligned", bind="query-params",
    )  # fmt: skip


def _follow_brush(brushed: list[dict[str, Any]], numbers: list[int]) -> None:
    """Let a new brush set the slider that is drawn after it; the slider may then be moved freely."""
    span = brushed[0].get("layer") if brushed else None
    if span == st.session_state.get("last brush"):
        return
    st.session_state["last brush"] = span
    if span:
        inside = [number for number in numbers if span[0] - 0.25 <= number <= span[1] + 0.25]
        if inside:
            st.session_state["aligned"] = (inside[0], inside[-1])


def _by_score() -> bool:
    choice = st.segmented_control(
        "Lines coloured by",
        ["family", "score"],
        default="family",
        key="lines",
        bind="query-params",
        required=True,
    )
    return choice == "score"


def _scores_for_color(frame: Frame) -> tuple[str, dict[str, float]] | None:
    uploaded = st.session_state.get("language scores")
    if uploaded:
        return "score", uploaded
    correct = _accuracies(frame)
    if not correct:
        states.note("plain", "No scores yet: upload a table of languages and scores beside the matrix below.")
        return None
    return "accuracy", correct


def _accuracies(frame: Frame) -> dict[str, float]:
    prompts = frame.trace.prompts(dict(frame.where))
    scored = prompts.filter(pc.is_valid(prompts["correct"]))
    table = scored.append_column("right", scored["correct"].cast(pa.int32()))
    means = table.group_by("language").aggregate([("right", "mean")])
    return dict(zip(means["language"].to_pylist(), means["right_mean"].to_pylist(), strict=True))


def _matrix(frame: Frame, pivot: str, window: tuple[int, int]) -> None:
    st.subheader("Between languages", anchor=False)
    layers = f"{window[0]}:{window[1]}"
    with states.loading(height=360):
        table = frame.view("alignment-matrix", pivot=pivot, layers=layers)
    show.chart(
        lambda theme: figures.matrix(table, theme=theme), table, name=f"alignment-matrix-{layers}", key="matrix",
        title=f"Routing divergence between languages, layers {window[0]} to {window[1]}",
        say=sentences_alignment.matrix(table, window),
        python=frame.snippet("alignment-matrix", pivot=pivot, layers=layers),
    )  # fmt: skip


def _scores(frame: Frame, pivot: str, window: tuple[int, int]) -> None:
    st.subheader("Does it go with a score?", anchor=False)
    given = st.file_uploader("A CSV of language and score", type=["csv"], key="scores file")
    if given is not None:
        try:
            st.session_state["language scores"] = read_scores(given.getvalue())
        except StoreError as error:
            states.problem(error, doing="The scores could not be read")
            return
    scores = st.session_state.get("language scores") or _accuracies(frame)
    if not scores:
        states.empty(
            "No scores",
            "Prompts with choices and an answer give each language an accuracy when they are traced; or a table "
            "of scores can be dropped above.",
        )
        return
    layers = f"{window[0]}:{window[1]}"
    params = {"pivot": pivot, "layers": layers, "scores": scores}
    points = frame.view("alignment-scores", **params)
    if points.num_rows < 3:
        states.empty("Too few languages", "A correlation needs at least three languages with a score.")
        return
    found = frame.view("alignment-correlation", **params)
    show.chart(
        lambda theme: figures.scatter(points, theme=theme), points, name="alignment-scores", key="scores",
        title=f"Score against mean divergence, layers {window[0]} to {window[1]}",
        say=sentences_alignment.correlations(found), python=frame.snippet("alignment-correlation", **params),
    )  # fmt: skip
    _notes(points)


def read_scores(data: bytes) -> dict[str, float]:
    """language → score from an uploaded CSV.

    Raises:
        StoreError: not UTF-8, a missing column, or a score that is no number; says the row.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"the file is no CSV in UTF-8: {error}") from None
    scores = {}
    for number, row in enumerate(rows, start=2):
        try:
            scores[row["language"]] = float(row["score"])
        except (KeyError, TypeError, ValueError):
            raise StoreError(f"row {number}: needs a language and a score that is a number") from None
    if not scores:
        raise StoreError("the file has no rows")
    return scores


def _by_language(frame: Frame, view: str, value: str, title: str, label: str) -> None:
    st.subheader(title, anchor=False)
    with states.loading(height=300):
        table = frame.view(view, layers=_layers(frame))
    chances = set(table["chance"].to_pylist()) if "chance" in table.column_names else set()
    chance = chances.pop() if len(chances) == 1 else None
    show.chart(
        lambda theme: figures.by_layer(table, value, label=label, theme=theme, chance=chance, height=260),
        table, name=view, title=title, say=sentences_alignment.spread(table, value, chance),
        python=frame.snippet(view),
    )  # fmt: skip


def _specialised(frame: Frame, pivot: str, window: tuple[int, int]) -> None:
    st.subheader("Specialised experts", anchor=False)
    groups = frame.trace.tags().get("group", [])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        tau = st.select_slider(
            "τ: more often than the pivot by", TAUS, value=0.3, key="tau", bind="query-params"
        )
        task = st.selectbox(
            "task (prompts of the pivot in group)", groups, index=None, placeholder="none", key="task",
            bind="query-params", disabled=len(groups) < 2, width=260,
        )  # fmt: skip
    params: dict[str, Any] = {"pivot": pivot, "layers": _layers(frame)} | ({"task": task} if task else {})
    with states.loading(height=260):
        counts = frame.view("specialised-counts", **params)
        experts = frame.view("specialised-experts", tau=tau, resamples=200, **params)
    at_tau = counts.filter(pc.less(pc.abs(pc.subtract(counts["tau"], tau)), 1e-9))
    show.chart(
        lambda theme: figures.kinds_by_layer(at_tau, theme=theme), counts, name="specialised-counts",
        title=f"Specialised experts by layer, τ = {tau}", say=sentences_alignment.kinds(at_tau, tau),
        python=frame.snippet("specialised-counts", **params),
    )  # fmt: skip
    if experts.num_rows:
        grid = strongest(frame, experts)
        hover = [Hover(column="kind", title="kind"), Hover(column="languages", title="for"),
                 Hover(column="delta", title="difference", format="+.1%")]  # fmt: skip
        show.chart(
            lambda theme: routing_map(
                grid, "delta", theme=theme, label="largest difference of frequency", value_format=".0%", hover=hover
            ),
            experts, name="specialised-experts", title=f"Specialised experts, τ = {tau}",
            say=sentences_alignment.specialised(experts),
            python=frame.snippet("specialised-experts", tau=tau, **params),
        )  # fmt: skip
    _promote(frame, experts, window, pivot, tau)


def strongest(frame: Frame, experts: pa.Table) -> pa.Table:
    """Every cell of the map with its largest difference, its kind, and the languages; 0 where there is none."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in experts.to_pylist():
        cell = found.setdefault(
            (row["layer"], row["expert"]), {"delta": 0.0, "kind": row["kind"], "names": []}
        )
        cell["delta"] = max(cell["delta"], row["delta"])
        cell["names"].append("the task" if row["language"] is None else words.language_name(row["language"]))
    rows = []
    for router in frame.routers():
        for expert in range(router.num_experts):
            cell = found.get((router.layer, expert), {"delta": 0.0, "kind": "none", "names": []})
            languages = words.listing(cell["names"], most=6) if cell["names"] else "no language"
            rows.append(
                {"layer": router.layer, "stream": router.stream, "expert": expert, "delta": cell["delta"],
                 "kind": cell["kind"], "languages": languages}
            )  # fmt: skip
    return pa.Table.from_pylist(rows)


def _promote(frame: Frame, experts: pa.Table, window: tuple[int, int], pivot: str, tau: float) -> None:
    """A steering profile of the task's experts, or of the specialised ones, in the chosen layers."""
    in_task = [row for row in experts.to_pylist() if row["language"] is None]
    rows = in_task or experts.to_pylist()
    cells = {(row["layer"], row["expert"]) for row in rows if window[0] <= row["layer"] <= window[1]}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        how = st.segmented_control(
            "Promote them", ["soft", "hard"], default="soft", key="promote", bind="query-params", required=True,
            help="soft: z + λ · std(z); hard: always chosen",
        )  # fmt: skip
        strength = st.number_input("λ", 0.0, 10.0, 0.5, 0.1, key="lambda", disabled=how == "hard", width=130)
        rule = ("bias", {"amount": strength}) if how != "hard" else ("on", {})
        whose = "task" if in_task else "specialised"
        made = profiles.profile(
            f"promote {whose} experts of {pivot}, τ {tau}, layers {window[0]}-{window[1]}",
            frame.trace.manifest.model.get("name"),
            profiles.rules_by_layer(rule[0], cells, stream=frame.stream, **rule[1]),
        )
        st.download_button(
            f"Steering profile ({words.amount(len(cells), 'expert')})", profiles.as_file(made),
            file_name="promote.json", mime="application/json", on_click="ignore", disabled=not cells,
        )  # fmt: skip
    if not in_task:
        states.say(
            "The paper promotes the pivot's task experts in the middle layers; without a task these are the "
            "experts that other languages use more, whose promotion the paper found to harm."
        )


def _notes(table: pa.Table) -> None:
    states.note("plain", " ".join(notes_of(table)))
