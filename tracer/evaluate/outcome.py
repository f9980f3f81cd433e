"""What one variant of an evaluation did to each prompt: the sums that all effects are made of.

Shapes: P prompts, L routers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Outcome:
    """What one variant (or no steering at all) did to each prompt."""

    nll_P: np.ndarray
    """Negative log-likelihood of the scored tokens, nats; of the right choice where there are choices."""
    tokens_P: np.ndarray
    """Scored tokens."""
    bytes_P: np.ndarray
    """UTF-8 bytes of the scored tokens."""
    correct_P: np.ndarray
    """1 or 0 where the prompt has choices and an answer, NaN elsewhere."""
    kl_P: np.ndarray
    """KL(base || this) in nats, summed over the scored positions of all its sequences."""
    positions_P: np.ndarray
    """How many those are."""
    changed_PL: np.ndarray
    """Tokens whose expert set differs from the unsteered one, by router."""
    routed_P: np.ndarray
    """Tokens that passed each router."""
    texts: list[str] | None = None
    """What was generated, where that was asked for."""

    @classmethod
    def empty(cls, prompts: int, routers: int) -> Outcome:
        """Room for that many prompts and routers, nothing scored yet."""
        return cls(
            nll_P=np.zeros(prompts),
            tokens_P=np.zeros(prompts),
            bytes_P=np.zeros(prompts),
            correct_P=np.full(prompts, np.nan),
            kl_P=np.zeros(prompts),
            positions_P=np.zeros(prompts),
            changed_PL=np.zeros((prompts, routers)),
            routed_P=np.zeros(prompts),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain lists; NaN as None."""
        data: dict[str, Any] = {"texts": self.texts}
        for name, value in vars(self).items():
            if name != "texts":
                data[name] = np.where(np.isnan(value), np.array(None), value).tolist()
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        arrays = {name: np.array(value, float) for name, value in data.items() if name != "texts"}
        return cls(**arrays, texts=data["texts"])
