"""Threads that live as long as the process, for decoding: what a thread that ends gives back to the system, the next
one has to ask for again, and fresh memory takes as long as decoding.

Only for work that waits for no other work and for no lock that is held while waiting for it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

READERS = 2


@cache
def readers() -> ThreadPoolExecutor:
    """The pool of this process."""
    return ThreadPoolExecutor(READERS, thread_name_prefix="moescope-read")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=readers.cache_clear)
