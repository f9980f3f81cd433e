"""What a trace will cost, judged by its first batches, and the question whether to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...store import open_trace
from ..errors import TracerError
from .progress import Meter

FIRST_LOOK_S = 3.0
"""The question is asked at the end of the first batch after so many seconds: a quick one tells little."""
WORTH_ASKING_S = 20.0
"""A trace that would end sooner is not asked about."""


class TraceDeclined(TracerError):
    """Whoever was asked did not want the trace; what its first batches made is still on the disk."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the whole trace will have taken."""

    seconds: float
    """To its end from now on."""
    bytes: float
    """Of its files in the end."""
    prompts: int
    """By which this was judged; `total_prompts` in all."""
    total_prompts: int


class Question:
    """Asks once, as soon as the first batches tell the pace.

    Args:
        consider: says whether to go on.
        url: of the trace, whose parts tell the size.
    """

    def __init__(self, consider: Callable[[Estimate], bool], meter: Meter, url: str) -> None:
        self._consider, self._meter, self._url = consider, meter, url
        self._before = _bytes_of(url)
        self._asked = False

    def after_batch(self, commit: Callable[[], None]) -> None:
        """Ask where it is time; `commit` puts what has run on the disk. Raises TraceDeclined."""
        meter = self._meter
        if self._asked or meter.seconds < FIRST_LOOK_S:
            return
        self._asked = True
        if (meter.left_s or 0.0) < WORTH_ASKING_S:
            return
        with meter.paused():
            commit()
            if not self._consider(self._estimate()):
                raise TraceDeclined("the trace was declined at its estimate")

    def _estimate(self) -> Estimate:
        now = self._meter.now()
        written = _bytes_of(self._url) - self._before
        return Estimate(
            seconds=now.left_s or 0.0,
            bytes=self._before + written / max(now.share or 0.0, 1e-9),
            prompts=now.prompts,
            total_prompts=now.total_prompts,
        )


def _bytes_of(url: str) -> int:
    return sum(file.bytes for part in open_trace(url).parts for file in part.files.values())
