"""Whether a model on disk has experts of its own, told from its description alone: no weights, no torch.

What this says is an offer to the user and nothing more; `find_routers` decides on the loaded model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

EXPERTS = re.compile(r"^(moe_)?(num|n)_(local_|routed_)?experts$")
GGUF_HEAD = 1 << 16
"""Bytes at the start of a GGUF file that hold the settings of its architecture; the vocabulary comes after them."""


def looks_dense(model: str) -> bool | None:
    """Whether the model in a folder or GGUF file seems to have no routed experts; None where that can't be told,
    as of a name on the hub."""
    path = Path(model).expanduser()
    try:
        if path.suffix.lower() == ".gguf" and path.is_file():
            with path.open("rb") as file:
                return b".expert_count" not in file.read(GGUF_HEAD)
        config = path / "config.json"
        return (
            not _counts_experts(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else None
        )
    except (OSError, ValueError):
        return None


def _counts_experts(config: Any) -> bool:
    """Whether any level of a configuration has a number of experts above 1."""
    if not isinstance(config, dict):
        return False
    counts = [value for key, value in config.items() if EXPERTS.match(key)]
    return any(_most(value) > 1 for value in counts) or any(map(_counts_experts, config.values()))


def _most(value: Any) -> int:
    numbers = value if isinstance(value, list) else [value]
    return max((n for n in numbers if isinstance(n, int) and not isinstance(n, bool)), default=0)
