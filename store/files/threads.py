"""Threads that live as long as the process, for reading: what a thread that ends gives back to the system, the next
one has to ask for again, and fresh memory takes as long as decoding.

On a disk two are enough to decode. Behind a URL a thread waits for an answer nearly all of its life, so there are many.
Only for work that waits for no other work of the same pool and for no lock that is held while waiting for it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

READERS = 2
FAR_READERS = 32
"""Parts that are read at once behind a URL; each has several requests out."""


@cache
def readers() -> ThreadPoolExecutor:
    """The pool of this process for files on a disk."""
    return ThreadPoolExecutor(READERS, thread_name_prefix="moescope-read")


@cache
def far_readers() -> ThreadPoolExecutor:
    """The pool for parts behind a URL. Its work may wait for that of `fetchers`."""
    return ThreadPoolExecutor(FAR_READERS, thread_name_prefix="moescope-far")


@cache
def fetchers() -> ThreadPoolExecutor:
    """The pool for single tables of parts behind a URL."""
    return ThreadPoolExecutor(FAR_READERS, thread_name_prefix="moescope-fetch")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    for pool in (readers, far_readers, fetchers):
        os.register_at_fork(after_in_child=pool.cache_clear)
