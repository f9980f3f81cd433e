"""From logits to a token: greedy, or a draw at a temperature among the likeliest tokens.

Each side of a request draws from a generator of its own, so what a request gets depends on nothing but
itself; base and steered share the seed, so equal distributions give equal tokens. V vocabulary entries.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Sampler:
    """Chooses tokens one after another.

    Args:
        temperature: 0 takes the likeliest token (the lowest id where several are).
        top_p: keep the likeliest tokens until their probability reaches this; the first is always kept.
        seed: of this sampler's own generator.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, logprobs_V: Tensor) -> int:
        """A token id, from log-probabilities on the CPU."""
        if self.temperature == 0:
            return int(logprobs_V.argmax())
        p_V = (logprobs_V.double() / self.temperature).softmax(-1)
        if self.top_p < 1:
            p_V = nucleus(p_V, self.top_p)
        # One uniform number against the cumulative sum: multinomial's own draw differs between versions.
        draw = torch.rand((), generator=self._generator, dtype=torch.float64)
        cumulative_V = p_V.cumsum(-1)
        chosen = int(torch.searchsorted(cumulative_V, draw * cumulative_V[-1], right=True))
        return min(chosen, int(p_V.nonzero()[-1]))


def nucleus(p_V: Tensor, top_p: float) -> Tensor:
    """Probabilities with all but the likeliest tokens set to 0: the fewest that hold `top_p` together."""
    sorted_V, order_V = p_V.sort(descending=True, stable=True)
    before_V = sorted_V.cumsum(-1) - sorted_V
    kept_V = torch.where(before_V < top_p, sorted_V, 0.0)
    return torch.zeros_like(p_V).scatter(-1, order_V, kept_V)
