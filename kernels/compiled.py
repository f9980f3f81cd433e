"""Optional compiled twins for loops that NumPy can only do through large intermediate arrays.

A twin computes what its plain version computes and is tested against it. Without numba the plain version runs; so
it does for work too small to be worth importing a compiler (half a second). Machine code is cached on disk:
only the very first use compiles.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from functools import cache

WORTH_COMPILING = 0.5
"""Seconds of plain work, added up over calls, from which a twin is used."""

_plain_seconds: defaultdict[Callable[..., None], float] = defaultdict(float)


def twin(
    loop: Callable[..., None], plain_seconds: float, *, any_order: bool = False
) -> Callable[..., None] | None:
    """`compiled(loop)` once enough plain work was asked for, None before.

    Args:
        loop: writes its results into arrays that it is given.
        plain_seconds: roughly what the plain version would take for this call.
        any_order: whether its sums may be added in any order, as vector instructions do.
    """
    _plain_seconds[loop] += plain_seconds
    if _plain_seconds[loop] < WORTH_COMPILING:
        return None
    return compiled(loop, any_order) if any_order else compiled(loop)


@cache
def compiled(loop: Callable[..., None], any_order: bool = False) -> Callable[..., None] | None:
    """The loop as machine code that releases the GIL; None where numba is missing or switched off."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return None
    try:
        import numba
    except ImportError:
        return None
    loosely = {"reassoc", "contract", "nsz"} if any_order else False
    # Division as NumPy divides, without a test for 0 that would keep a loop from becoming vector instructions.
    options = {"nogil": True, "error_model": "numpy" if any_order else "python", "fastmath": loosely}
    try:
        return numba.njit(**options, cache=True)(loop)
    except RuntimeError:  # nowhere to cache: a read-only installation and no home folder
        return numba.njit(**options)(loop)
