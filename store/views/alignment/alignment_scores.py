"""Does a language that is routed like the pivot also do better? Divergence in some layers against a score."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from ....kernels.alignment import correlation
from ....kernels.alignment.correlation import FEWEST_PAIRS
from ...errors import StoreError
from ...notes import notes_of, with_notes
from ...read.selection import Where
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..options import DECODER, INTERVALS, INTERVALS_OVER, MORE_INTERVALS, Intervals, Routers
from ..registry import view
from .alignment import mean_interval
from .divergences import from_pivot
from .units import UNITS, parallel_units

Scores = Mapping[str, float] | str | None
"""language → score; or a CSV or JSON file of them; or None for the accuracy in the trace."""


def language_scores(trace: TraceRows, scores: Scores, where: Where | None) -> tuple[dict[str, float], str]:
    """Score of each language, and where it comes from.

    Raises:
        StoreError: no scores given and none in the trace, or a file that can't be read as language, score.
    """
    if isinstance(scores, Mapping):
        return {str(name): float(value) for name, value in scores.items()}, "given scores"
    if scores:
        return _read_scores(Path(scores)), f"scores from {Path(scores).name}"
    prompts = trace.prompts(where)
    found: dict[str, list[bool]] = {}
    for language, correct in zip(
        prompts["language"].to_pylist(), prompts["correct"].to_pylist(), strict=True
    ):
        if language is not None and correct is not None:
            found.setdefault(language, []).append(correct)
    if not found:
        raise StoreError(
            "the trace has no accuracies (its prompts have no choices and answer): "
            "give a table of language and score with scores=FILE.csv"
        )
    return {name: float(np.mean(values)) for name, values in found.items()}, "accuracy in the trace"


def _read_scores(path: Path) -> dict[str, float]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: {error}") from None
    try:
        if path.suffix.lower() == ".json":
            return {str(name): float(value) for name, value in json.loads(text).items()}
        dialect = "\t" if "\t" in text.splitlines()[0] else ","
        rows = list(csv.DictReader(text.splitlines(), delimiter=dialect))
        return {row["language"]: float(row["score"]) for row in rows}
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise StoreError(
            f"{path}: needs columns language and score ({type(error).__name__}: {error})"
        ) from None


@view("alignment-scores")
def alignment_scores(
    trace: TraceRows,
    *,
    scores: Scores = None,
    pivot: str = "en",
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """Score and mean divergence from the pivot of each language, in a window of layers.

    Args:
        scores: a CSV (columns language, score) or JSON file; the accuracy in the trace by default.
        pivot: as in `alignment`.
    Returns:
        language, score, divergence (mean over the layers of the window, then over pairs), low, high (95 %
        bootstrap over units), units. Languages without a score are left out and named in the notes.
    """
    score_of, source = language_scores(trace, scores, tokens.where)
    units = parallel_units(trace, pivot, tokens.where)
    chosen = routers.numbers(trace)
    languages = [units.languages[n] for n in units.others]
    total_UM = np.zeros((units.shape[0], len(languages)))
    paired_UM = np.ones(total_UM.shape, bool)
    for divergence_UM, there_UM in from_pivot(trace, units, chosen, routers.stream, tokens):
        total_UM += divergence_UM
        paired_UM &= there_UM
    mean = mean_interval(total_UM / len(chosen), paired_UM, intervals)
    rows = [
        {
            "language": language,
            "score": score_of[language],
            "divergence": float(mean.point[m]),
            "low": None if np.isnan(mean.low[m]) else float(mean.low[m]),
            "high": None if np.isnan(mean.high[m]) else float(mean.high[m]),
            "units": int(mean.units[m]),
        }
        for m, language in enumerate(languages)
        if language in score_of and mean.units[m]
    ]
    missing = [language for language in languages if language not in score_of]
    notes = [f"Layers {', '.join(map(str, chosen))}; {source}.", intervals.note(UNITS)]
    notes += [*units.notes, tokens.note()]
    if missing:
        notes.append(f"Left out, because they have no score: {', '.join(missing)}.")
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    return with_notes(table, notes)


_SCHEMA = pa.schema(
    [
        ("language", pa.string()),
        ("score", pa.float64()),
        ("divergence", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("units", pa.int64()),
    ]
)


@view("alignment-correlation")
def alignment_correlation(
    trace: TraceRows,
    *,
    scores: Scores = None,
    pivot: str = "en",
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = MORE_INTERVALS,
) -> pa.Table:
    """Correlation, over languages, of score and mean divergence from the pivot in a window of layers.

    Args:
        scores, pivot: as in `alignment-scores`.
    Returns:
        method (pearson, spearman), r, low, high (95 % bootstrap over languages), languages, undefined (share
        of resamples in which nothing varied).
    """
    points = alignment_scores(
        trace, scores=scores, pivot=pivot, routers=routers, tokens=tokens, resamples=2, seed=intervals.seed
    )  # fmt: skip
    return correlate(points, resamples=intervals.resamples, seed=intervals.seed)


def correlate(points: pa.Table, *, resamples: int = 2000, seed: int = 0) -> pa.Table:
    """The table of `alignment-correlation` from that of `alignment-scores`.

    Raises:
        StoreError: fewer than three languages.
    """
    if points.num_rows < FEWEST_PAIRS:
        raise StoreError(
            f"a correlation needs at least {FEWEST_PAIRS} languages with a score, there are {points.num_rows}"
        )
    x, y = np.asarray(points["divergence"]), np.asarray(points["score"])
    rows = []
    for method in ("pearson", "spearman"):
        found = correlation(x, y, method, resamples=resamples, seed=seed)
        ends = {
            name: None if np.isnan(end) else end for name, end in (("low", found.low), ("high", found.high))
        }
        rows.append(
            {"method": method, "r": found.r, **ends, "languages": found.n, "undefined": found.undefined}
        )
    few = (
        "Few, related languages: correlation is not causation, and below about 10 languages the interval is "
        "too narrow."
    )
    drawn = Intervals(resamples=resamples, seed=seed).note("languages")
    notes = [note for note in notes_of(points) if not note.startswith(INTERVALS_OVER)]
    return with_notes(pa.Table.from_pylist(rows), [*notes, drawn, few])
