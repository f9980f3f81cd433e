"""Which token of one trace is which of another.

1. Prompts pair by `prompt_id` (or `parallel_id`, with the language where translations share one), tokens by position
   where the token ids agree.
2. From the first other token id on the rest of a prompt is not compared: both sides have read different texts from
   there on. `realign` aligns the ids as `difflib` does and goes on; `characters` pairs tokens of two tokenizers that
   cover the same characters of the same text.
3. What does not pair is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher

import numpy as np
import pyarrow as pa

from ..amount import amount
from ..errors import BadArgument
from ..schema import RouterKey
from ..trace import Trace
from .pairs import Align, PairBy, Pairs, Parting, parts_of
from .token_rows import UNKNOWN, TokenRows, token_rows

PAIR_BY: tuple[PairBy, ...] = ("prompt_id", "parallel_id")
ALIGN: tuple[Align, ...] = ("ids", "realign", "characters")


def pair_traces(a: Trace, b: Trace, *, pair_by: PairBy = "prompt_id", align: Align = "ids") -> Pairs:
    """Pair the rows of two traces that are the same token of the same prompt.

    Args:
        pair_by: `parallel_id` for clean and perturbed inputs: with `ids`, their tokens pair by position alone where a
            prompt has equally many on both sides; the others can only be compared as sequences. Where a side has a
            `parallel_id` more than once (translations), prompts pair by `parallel_id` and `language`.
        align: `ids`, `realign` or `characters`, as above.
    Returns:
        `Pairs`, whose `unpaired` counts what was left out by reason.
    Raises:
        BadArgument: an unknown way to pair, a layer with other numbers of experts on the two sides, no router in
            common, or no prompt in common.
    """
    if pair_by not in PAIR_BY or align not in ALIGN:
        wrong, known = (pair_by, PAIR_BY) if pair_by not in PAIR_BY else (align, ALIGN)
        raise BadArgument(f"tokens cannot be paired by {wrong!r}; there is {', '.join(known)}")
    while True:
        state = parts_of(a, b)
        pairs = _paired(a, b, pair_by, align)
        # A part that turned out to be damaged is left out: the rows that were counted before are no longer those.
        if parts_of(a, b) == state:
            return pairs


def _paired(a: Trace, b: Trace, pair_by: PairBy, align: Align) -> Pairs:
    routers, missing = _routers(a, b)
    unpaired: Counter[str] = Counter()
    columns = _columns(a, b, pair_by)
    prompts = _prompts(a, b, columns, unpaired)
    rows_a, rows_b = token_rows(a), token_rows(b)
    partings: list[Parting] = []
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for prompt_a, prompt_b in prompts:
        one, other = rows_a.of_prompt(prompt_a), rows_b.of_prompt(prompt_b)
        if align == "characters":
            pairs = _by_characters(rows_a, one, rows_b, other, unpaired)
        elif align == "ids" and pair_by == "parallel_id":
            pairs = _by_position(rows_a, one, rows_b, other, unpaired)
        else:
            pairs = _by_ids(rows_a, one, rows_b, other, align == "realign", unpaired, partings)
        found.append(pairs)
    joined = (np.concatenate([pair[side] for pair in found] or [np.zeros(0, np.int64)]) for side in (0, 1))
    row_a, row_b = joined
    order = np.argsort(row_a, kind="stable")
    return Pairs(
        a=a, b=b, tokens_a=rows_a, tokens_b=rows_b, row_a=row_a[order], row_b=row_b[order],
        prompts=prompts, routers=routers, missing=missing, unpaired=dict(unpaired), partings=partings,
        pair_by=pair_by, prompt_columns=columns, align=align,
    )  # fmt: skip


def _routers(a: Trace, b: Trace) -> tuple[list[RouterKey], list[str]]:
    """The routers of both, and sentences on those of one alone."""
    of_b = {spec.key: spec for spec in b.routers}
    both, alone = [], []
    for spec in a.routers:
        other = of_b.pop(spec.key, None)
        if other is None:
            alone.append(f"{spec.key} is only in A")
            continue
        if other.num_experts != spec.num_experts:
            raise BadArgument(
                f"layer {spec.layer} ({spec.stream}) has {spec.num_experts} experts in A and {other.num_experts} in "
                "B: equal expert numbers mean different experts, so these traces can't be compared"
            )
        both.append(spec.key)
    alone += [f"{key} is only in B" for key in of_b]
    if not both:
        raise BadArgument("the two traces have no router in common: " + "; ".join(alone[:4]))
    return both, alone


def _columns(a: Trace, b: Trace, pair_by: PairBy) -> list[str]:
    """What makes two prompts the same one. Translations share a `parallel_id`; their language tells them apart."""
    shared = pair_by == "parallel_id" and any(_repeats(trace.prompts()[pair_by]) for trace in (a, b))
    return [pair_by, "language"] if shared else [pair_by]


def _repeats(column: pa.ChunkedArray) -> bool:
    names = column.drop_null()
    return len(names) != len(names.unique())


def _prompts(a: Trace, b: Trace, columns: list[str], unpaired: Counter[str]) -> list[tuple[int, int]]:
    """Rows of `prompts()` of both sides that are the same prompt."""
    sides = ((a, "A"), (b, "B"))
    ids_a, ids_b = (_names(trace, columns, side) for trace, side in sides)
    both = [(row, ids_b[name]) for name, row in ids_a.items() if name in ids_b]
    unpaired["prompts only in A"] += a.num_prompts - len(both)
    unpaired["prompts only in B"] += b.num_prompts - len(both)
    if not both:
        why = [reason for trace, side in sides if (reason := _without_prompts(trace, side))]
        found = f"the two traces have no prompt in common by {' and '.join(columns)}"
        raise BadArgument("; ".join([found, *why]))
    return both


def _without_prompts(trace: Trace, side: str) -> str:
    """Why a side has fewer prompts than it should, if it has."""
    if trace.problems:
        left = f"{len(trace.parts)} of its {amount(len(trace.manifest.parts), 'part')} can be read"
        return f"{side} is damaged ({left}): {trace.problems[0]}"
    return "" if trace.num_prompts else f"{side} holds no prompt"


def _names(trace: Trace, columns: list[str], side: str) -> dict[tuple[str | None, ...], int]:
    """Rows of the prompts that have a value in the first of these columns, by their values."""
    prompts, found = trace.prompts(), dict[tuple[str | None, ...], int]()
    for row, name in enumerate(zip(*(prompts[column].to_pylist() for column in columns), strict=True)):
        if name[0] is None:
            continue
        if name in found:
            told = " and ".join(f"{column} {value!r}" for column, value in zip(columns, name, strict=True))
            raise BadArgument(f"{side} has two prompts with {told}: they cannot be paired by it")
        found[name] = row
    return found


def _by_position(
    rows_a: TokenRows, one: slice, rows_b: TokenRows, other: slice, unpaired: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """All tokens where both sides have the same positions, else none."""
    place_a, place_b = rows_a.position_N[one], rows_b.position_N[other]
    if not np.array_equal(place_a, place_b):
        unpaired["prompts with other positions (compared as sequences only)"] += 1
        unpaired["tokens of such prompts"] += len(place_a)
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.arange(one.start, one.stop), np.arange(other.start, other.stop)


def _by_ids(
    rows_a: TokenRows,
    one: slice,
    rows_b: TokenRows,
    other: slice,
    realign: bool,
    unpaired: Counter[str],
    partings: list[Parting],
) -> tuple[np.ndarray, np.ndarray]:
    place, at_a, at_b = np.intersect1d(
        rows_a.position_N[one], rows_b.position_N[other], assume_unique=True, return_indices=True
    )
    row_a, row_b = at_a + one.start, at_b + other.start
    id_a, id_b = rows_a.token_N[row_a], rows_b.token_N[row_b]
    differs = (id_a != id_b) & (id_a != UNKNOWN) & (id_b != UNKNOWN)
    length_a, length_b = one.stop - one.start, other.stop - other.start
    unpaired["positions only in A"] += length_a - len(place)
    unpaired["positions only in B"] += length_b - len(place)
    if not differs.any():
        return row_a, row_b
    first = int(differs.argmax())
    partings.append(
        Parting(int(rows_a.prompt_N[one.start]), int(place[first]), int(row_a[first]), int(row_b[first]))
    )
    if not realign:
        unpaired["tokens from the first different token id on"] += len(place) - first
        return row_a[:first], row_b[:first]
    blocks = list(_blocks(rows_a.token_N[one], rows_b.token_N[other]))
    kept_a = np.concatenate([np.arange(a, a + n) for a, _, n in blocks]) + one.start
    kept_b = np.concatenate([np.arange(b, b + n) for _, b, n in blocks]) + other.start
    unpaired["tokens without an equal token id on the other side"] += length_a - len(kept_a)
    return kept_a.astype(np.int64), kept_b.astype(np.int64)


def _blocks(ids_a: np.ndarray, ids_b: np.ndarray) -> Iterator[tuple[int, int, int]]:
    matcher = SequenceMatcher(None, ids_a.tolist(), ids_b.tolist(), autojunk=False)
    for block in matcher.get_matching_blocks():
        yield block.a, block.b, block.size


def _by_characters(
    rows_a: TokenRows, one: slice, rows_b: TokenRows, other: slice, unpaired: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of both sides that cover the same characters of the same text; special tokens cover none."""
    text_a, spans_a = _spans(rows_a, one)
    text_b, at = _spans(rows_b, other)
    if text_a != text_b:
        unpaired["prompts whose tokens spell another text"] += 1
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    both = [(row, at[span]) for span, row in spans_a.items() if span in at]
    unpaired["tokens without one of the same characters on the other side"] += len(spans_a) - len(both)
    pairs = np.array(both, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _spans(rows: TokenRows, which: slice) -> tuple[str, dict[tuple[int, int], int]]:
    """The text that the tokens spell, and the row of each span of characters. Some tokenizers put a space before a
    text: spans are counted from its first sign."""
    special = np.asarray(rows.table["special"].slice(which.start, which.stop - which.start))
    text, spans = "", {}
    for row in range(which.start, which.stop):
        piece = rows.text(row)
        if piece and not special[row - which.start]:
            spans[len(text), len(text) + len(piece)] = row
            text += piece
    before = len(text) - len(text.lstrip())
    moved = {(max(start - before, 0), stop - before): row for (start, stop), row in spans.items()}
    return text.lstrip(), {span: row for span, row in moved.items() if span[1] > 0}
