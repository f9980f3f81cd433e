"""Who writes when a model lies over several processes: rank 0, and every rank learns what it must know of it."""

from __future__ import annotations

from typing import Any, Self

from ...store.schema import Part
from ...store.write.writer import TraceWriter
from ..errors import TracerError
from ..models.layout import Layout, from_rank_0
from .part_writer import Writer


def open_writer(layout: Layout, url: Any, **described: Any) -> Writer:
    """The writer of a trace, on the rank that writes; elsewhere one that takes parts and keeps nothing.

    Args:
        described: as for `TraceWriter`.
    Raises:
        StoreError: on rank 0, as `TraceWriter` says.
        TracerError: on the others, where rank 0 could not begin.
    """
    if layout.ranks == 1:
        return TraceWriter(url, **described)
    if not layout.writes:
        told = from_rank_0(None)
        if isinstance(told, str):
            raise TracerError(f"rank 0 could not start the trace: {told}")
        return Follower(*told)
    try:
        writer = TraceWriter(url, **described)
    except BaseException as error:
        from_rank_0(str(error))
        raise
    from_rank_0((writer.url, writer.committed_prompts))
    return writer


class Follower:
    """Stands for the writer on a rank that runs the same batches and writes nothing."""

    def __init__(self, url: str, committed: set[str]) -> None:
        self.url, self._committed = url, committed

    @property
    def committed_prompts(self) -> set[str]:
        return set(self._committed)

    def write(self, part: Part) -> None:
        """Rank 0 has the same part."""

    def finish(self, **summary: Any) -> None:
        """Rank 0 says the same."""

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
