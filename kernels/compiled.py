"""Optional compiled twins for loops that NumPy can only do through large intermediate arrays.

A twin computes what its plain version computes and is tested against it. Without numba the plain version runs; so
it does for work too small to be worth importing a compiler (half a second). Machine code is cached on disk:
only the very first use compiles.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

WORTH_COMPILING = 0.5
"""Seconds of plain work, added up over calls, from which a twin is used."""

_one_at_a_time = threading.Lock()
_plain_seconds: defaultdict[Callable[..., None], float] = defaultdict(float)


def compiled_if_worth_it(
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


def expect(
    loop: Callable[..., None], plain_seconds: float, example: Sequence[np.ndarray], *, any_order: bool = False
) -> None:
    """Say that a loop will be asked for so much plain work: where that is worth a compiler, it is fetched in the
    background (0.7 s, of Python more than of disk) while the caller reads its data.

    Args:
        example: small arguments of the types that will come.
    """
    fetched = _plain_seconds[loop] >= WORTH_COMPILING
    _plain_seconds[loop] += plain_seconds
    if fetched or _plain_seconds[loop] < WORTH_COMPILING:
        return

    def fetch() -> None:
        if fast := compiled(loop, any_order) if any_order else compiled(loop):
            fast(*example)

    threading.Thread(target=fetch, name="moescope-compiler").start()


def compiled(loop: Callable[..., None], any_order: bool = False) -> Callable[..., None] | None:
    """The loop as machine code that releases the GIL; None where numba is missing or switched off."""
    with _one_at_a_time:
        return _compiled(loop, any_order)


@cache
def _compiled(loop: Callable[..., None], any_order: bool) -> Callable[..., None] | None:
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
