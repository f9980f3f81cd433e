"""A block of device memory that a batch's results are written into, and that goes to the host in one copy.

Shapes are whatever is put in; a `Slot` remembers where.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

# Every array begins at a multiple of this, so that a run of bytes can be viewed as any of the types below.
_ALIGN = 16
_NUMPY = {
    torch.uint8: np.uint8, torch.int16: np.int16, torch.int32: np.int32, torch.int64: np.int64,
    torch.bool: np.bool_, torch.float16: np.float16, torch.float32: np.float32,
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """Where one array lies."""

    chunk: int
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class Arena:
    """Memory on one device that grows by chunks and is used again for every batch.

    On the CPU a batch's chunks are handed over as they are, so the next batch gets new ones.
    """

    def __init__(self, device: torch.device, chunk_bytes: int = 1 << 20) -> None:
        self.device = device
        self._chunk_bytes = chunk_bytes
        self._chunks: list[Tensor] = []
        self._current = 0
        self._used: list[int] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Slot, Tensor]:
        """Uninitialised room for one array."""
        # Chunks are (bytes,) uint8 whatever lies in them: one copy takes arrays of all shapes and types to the host.
        size = prod(shape) * dtype.itemsize
        chunk = self._chunk_with(size)
        slot = Slot(chunk, self._used[chunk], shape, dtype)
        self._used[chunk] += -(-size // _ALIGN) * _ALIGN
        return slot, self._chunks[chunk][slot.start : slot.start + size].view(dtype).view(shape)

    def put(self, values: Tensor, dtype: torch.dtype) -> Slot:
        """Copy an array in, converted to `dtype`."""
        slot, room = self.take(tuple(values.shape), dtype)
        room.copy_(values)
        return slot

    def put_rows(self, values: Tensor, dtype: torch.dtype, rows: Tensor) -> Slot:
        """Copy some rows (of dimension 1) in, narrowed first: it is the narrow array that is gathered
        from."""
        shape = (values.shape[0], len(rows), *values.shape[2:])
        slot, room = self.take(shape, dtype)
        torch.index_select(values.to(dtype), 1, rows, out=room)
        return slot

    def to_host(self) -> HostArena:
        """Start the copy to the host and begin anew; the device is not waited for."""
        filled = [chunk[:used] for chunk, used in zip(self._chunks, self._used, strict=True) if used]
        if self.device.type == "cpu":
            self._chunks, self._used, self._current = [], [], 0
            return HostArena(filled, None)
        self._used, self._current = [0] * len(self._chunks), 0
        if self.device.type != "cuda":
            return HostArena([chunk.cpu() for chunk in filled], None)
        # Only into pinned memory does a copy run beside the next batch; the event tells when it has ended. The stream
        # keeps the order: what the next batch writes into the same chunks comes after this copy.
        hosts = [torch.empty(len(chunk), dtype=torch.uint8, pin_memory=True) for chunk in filled]
        with torch.cuda.device(self.device):
            for host, chunk in zip(hosts, filled, strict=True):
                host.copy_(chunk, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        return HostArena(hosts, done)

    def _chunk_with(self, size: int) -> int:
        # Chunks fill from the first to the last; room left at the end of one is not looked at again in this batch.
        while self._current < len(self._chunks):
            if self._used[self._current] + size <= len(self._chunks[self._current]):
                return self._current
            self._current += 1
        self._chunk_bytes = max(self._chunk_bytes, size)
        self._chunks.append(torch.empty(self._chunk_bytes, dtype=torch.uint8, device=self.device))
        self._used.append(0)
        return self._current


class HostArena:
    """A batch's results on the host."""

    def __init__(self, chunks: list[Tensor], done: torch.cuda.Event | None) -> None:
        self._chunks = chunks
        self._done = done

    def array(self, slot: Slot) -> np.ndarray:
        """One array, without a copy; waits for the device the first time."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        data = self._chunks[slot.chunk].numpy()[slot.start : slot.start + slot.size]
        return data.view(_NUMPY[slot.dtype]).reshape(slot.shape)
