"""Writing a trace: one part after another, each on disk whole or not at all.

with TraceWriter("my-trace", routers=find_routers(model), model={...}, prompt_set={...}, settings={...})
as out:
    out.write(part)         # returns when the part would survive a power cut
    out.finish(seconds=12)  # without it the trace stays `partial`, and can be resumed
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from ..schema import DEFAULT_CAPTURE, Part, RouterSpec
from .ledger import Ledger
from .putter import PartPutter


class TraceWriter:
    """The one writer of a trace.

    Args:
        url: folder or URL; made where it is not there.
        routers: one spec for each (layer, stream) that can have events.
        model, prompt_set, settings: what the trace was made from (plain JSON); kept in the manifest, and compared
            when resuming, apart from `target.MAY_DIFFER`.
        capture: what events hold, of `CAPTURES`; `ids` always.
        resume: go on with a trace that is there. A fresh folder is fine too.
        weight_type: gate weights are rounded to float16, or kept as float32.
        noise: a noise floor (`Noise.to_json()`), kept in the manifest; a resumed trace keeps its own.
    Raises:
        TraceExists: a trace with something in it is there and `resume` is off, or the folder holds other files.
        ResumeRefused: a trace is there that was made otherwise; the message says how.
        TraceLocked: another writer is at work.
        StoreError: the folder can't be written.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        routers: Sequence[RouterSpec],
        model: dict[str, Any],
        prompt_set: dict[str, Any],
        settings: dict[str, Any],
        capture: Iterable[str] = DEFAULT_CAPTURE,
        resume: bool = False,
        steering: dict[str, Any] | None = None,
        weight_type: str = "float16",
        noise: dict[str, Any] | None = None,
    ):
        self._write_lock = threading.Lock()
        self._ledger = Ledger(
            url,
            routers=routers,
            model=model,
            prompt_set=prompt_set,
            settings=settings,
            capture=capture,
            resume=resume,
            steering=steering,
            weight_type=weight_type,
            noise=noise,
        )
        manifest = self._ledger.manifest
        self._putter = PartPutter(
            self._ledger.folder,
            self._ledger,
            routers=manifest.routers,
            capture=manifest.capture,
            weight_type=weight_type,
        )

    @property
    def url(self) -> str:
        return self._ledger.folder.url

    @property
    def committed_prompts(self) -> set[str]:
        """Ids of the prompts that are safely on disk."""
        return self._ledger.committed_prompts

    def write(self, part: Part) -> None:
        """Commit whole prompts with everything recorded of them; returns when they are durable.

        Safe to call from a background thread; calls are taken one after another.

        Raises:
            BadPart: the part contradicts itself, or repeats a prompt that is committed.
            StoreError: disk full, folder gone, ...; what was committed before stays readable.
        """
        with self._write_lock:
            self._putter.write(part)

    def finish(self, **summary: Any) -> None:
        """Mark the trace complete; `summary` (plain JSON) is kept in the manifest, unless nothing was added to a
        trace that has one."""
        with self._write_lock:
            self._ledger.finish(**summary)

    def close(self) -> None:
        """Let go of the trace; may be called twice. Without `finish` its state becomes `partial`."""
        with self._write_lock:
            self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
