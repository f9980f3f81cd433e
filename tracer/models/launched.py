"""Which of several processes this one is, as torchrun says in the environment. Light: no library is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")


def launched(environment: Mapping[str, str] = os.environ) -> int:
    """Processes that torchrun started for this run, this one included; 1 where it did not start it."""
    if any(name not in environment for name in TORCHRUN):
        return 1
    return int(environment["WORLD_SIZE"])


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Number of this process among those that torchrun started."""
    return int(environment["RANK"]) if launched(environment) > 1 else 0
