"""The tokens of a part: checked, in order, and each with the class that rollups count it under."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..arrow import pc
from ..errors import BadPart
from ..schema import TOKENS
from .conform import conform
from .rollups import PHASES, TokenClasses, token_key


def checked_tokens(table: pa.Table, prompts: int) -> tuple[pa.Table, TokenClasses]:
    """The tokens of a part in the order of prompts and positions, and the class of each for the rollups.

    Args:
        prompts: how many the part has.
    Raises:
        BadPart: a prompt or position out of range, or one position twice in a prompt.
    """
    tokens = conform(table, TOKENS, "tokens")
    tokens = tokens.set_column(4, "phase", _coded_phase(tokens["phase"]))
    for name, default in (("special", False), ("completion", False)):
        tokens = tokens.set_column(tokens.schema.get_field_index(name), name, tokens[name].fill_null(default))
    prompt_T, position_T = (np.asarray(tokens[name]) for name in ("prompt", "position"))
    key_T = token_key(prompt_T, position_T)
    if len(key_T) and (prompt_T.min() < 0 or prompt_T.max() >= prompts or position_T.min() < 0):
        raise BadPart("tokens: a prompt number or position is out of range")
    if not (np.diff(key_T) > 0).all():
        order = np.argsort(key_T, kind="stable")
        if not (np.diff(key_T[order]) > 0).all():
            raise BadPart("tokens: one position occurs twice in a prompt")
        tokens = tokens.take(order)
        prompt_T, position_T = prompt_T[order], position_T[order]
    phase = tokens["phase"].combine_chunks().indices
    flags = [np.asarray(phase), *(np.asarray(tokens[name]) for name in ("special", "completion"))]
    return tokens, TokenClasses.of(prompt_T, position_T, np.stack(flags, axis=1).astype(np.int64))


def _coded_phase(phase: pa.ChunkedArray) -> pa.Array:
    """Phases as a dictionary whose codes are those of `RouterSums.phase`; null is unknown."""
    codes = pc.index_in(phase.fill_null(PHASES[-1]), value_set=pa.array(PHASES))
    if codes.null_count:
        raise BadPart(f"tokens: a phase is not one of {', '.join(PHASES)}")
    codes = codes.cast(pa.int8())
    codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    return pa.DictionaryArray.from_arrays(codes, pa.array(PHASES))
