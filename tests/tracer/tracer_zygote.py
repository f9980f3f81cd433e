"""A process that has torch and a tiny model, and forks tracers, so that a test can kill many real ones.

Reads the folder of a trace from each line; answers with the child's pid; the child traces the prompts into the folder,
resuming what is there, prints `committed N` after each part, and `done`.
"""

from __future__ import annotations

import os
import sys
import tempfile

import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.store.write.writer import TraceWriter
from moescope.tracer import PromptSet, trace_prompts

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "sleeps",
    "until",
    "it",
    "is",
]


def prompts() -> PromptSet:
    """32 prompts of very different lengths, so that batches take them out of order."""
    texts = [" ".join(WORDS[n % 5 : n % 5 + 1 + (7 * n) % 12]) for n in range(32)]
    return PromptSet.from_rows(
        [{"id": f"p{n}", "text": text, "language": "ab"[n % 2]} for n, text in enumerate(texts)]
    )


def trace_into(folder: str) -> None:
    tell, write = os.write, TraceWriter.write

    def told(self: TraceWriter, part) -> None:
        write(self, part)
        tell(1, f"committed {len(self.committed_prompts)}\n".encode())

    TraceWriter.write = told
    trace_prompts(MODEL, TOKENIZER, PROMPTS, folder, resume=True, batch_tokens=160, part_events=200)
    tell(1, b"done\n")


# One thread: a forked child has none of the threads that its parent computed with.
torch.set_num_threads(1)
# A killed process loses nothing that it handed to the kernel: only a power cut would, and waiting takes long.
os.fsync = lambda descriptor: None
MODEL, TOKENIZER, PROMPTS = tiny_olmoe(), character_tokenizer(), prompts()
with tempfile.TemporaryDirectory() as place:  # what is imported here, no child has to import
    trace_prompts(MODEL, TOKENIZER, PROMPTS.limit(2), f"{place}/t")

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            trace_into(line.strip())
        finally:
            os._exit(0)
    os.write(1, f"pid {pid}\n".encode())
    os.waitpid(pid, 0)
    os.write(1, b"ended\n")
