"""Passages of the architectures that don't call `experts(hidden, ids, weights)`.

Shapes: T tokens, K experts per token, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import SteeringError
from .emergent import EmergentMoE
from .passages import Call, ExpertsCall, Passage, flat


def dense(ids_TK: Tensor, weights_TK: Tensor, like_TE: Tensor) -> Tensor:
    """Gate weights at their experts' columns, (T, E), in the shape and dtype of `like_TE`."""
    zeros_TE = torch.zeros_like(flat(like_TE))
    return zeros_TE.scatter_add(-1, ids_TK, weights_TK.to(zeros_TE.dtype)).reshape(like_TE.shape)


class DenseScores(Passage):
    """Llama 4: the router returns (gate weights (T, E), logits); unselected experts have weight 0."""

    at = "router"
    no_outputs = "the gate weight multiplies the expert's input, so no output comes before it"

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        weights_TK, ids_TK = call.output[0].topk(call.module.top_k, dim=-1)
        return ids_TK, weights_TK

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        assert weights_TK is not None
        call.output = (dense(ids_TK, weights_TK, call.output[0]), *call.output[1:])


class BesideShared(ExpertsCall):
    """Inkling: the router returns (logits, weights, ids, weights of shared experts); all weights of a token sum to a
    fixed number."""

    def logits(self, call: Call) -> Tensor:
        logits_TE, _, _, shared_TS = call.output
        self.shared_T1, self.shared_factor_T1 = shared_TS.detach().float().sum(-1, keepdim=True), None
        return logits_TE


class SortedByExpert(Passage):
    """JetMoe: the router returns its T*K slots sorted by expert, and how many slots each expert has."""

    at = "router"
    no_outputs = (
        "the two projections of an expert are modules of their own, called with the tokens in another order"
    )

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        slots_N, _, gates_N, slots_per_expert, logits_TE = call.output
        counts_E = torch.tensor(slots_per_expert, device=slots_N.device)
        experts_N = torch.arange(len(counts_E), device=slots_N.device).repeat_interleave(
            counts_E, output_size=len(slots_N)
        )
        rows = len(logits_TE)
        ids_N = torch.empty_like(slots_N).scatter(0, slots_N, experts_N)
        weights_N = torch.empty_like(gates_N).scatter(0, slots_N, gates_N)
        return ids_N.reshape(rows, -1), weights_N.reshape(rows, -1)

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        assert weights_TK is not None
        logits_TE = call.output[4]
        slots_N = ids_TK.flatten().sort(stable=True).indices
        counts_E = ids_TK.flatten().bincount(minlength=logits_TE.shape[-1])
        gates_N = weights_TK.flatten()[slots_N].to(call.output[2].dtype)
        call.output = (slots_N, slots_N // ids_TK.shape[-1], gates_N, counts_E.tolist(), logits_TE)


class OneHotCall(Passage):
    """Switch Transformers: `experts(hidden, one-hot (T, 1, E), weights (T, 1))`; a row without a one is a
    token that its expert had no room for."""

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        _, one_hot_T1E, weights_T1 = call.args
        routed_T1 = one_hot_T1E.sum(-1) > 0
        ids_T1 = one_hot_T1E.argmax(-1)
        return ids_T1.where(routed_T1, -1), weights_T1.where(routed_T1, 0)

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        assert weights_TK is not None
        hidden, one_hot_T1E, weights_T1 = call.args
        chosen_TKE = torch.nn.functional.one_hot(ids_TK, one_hot_T1E.shape[-1]).to(one_hot_T1E.dtype)
        chosen_TKE = chosen_TKE * (weights_TK != 0).unsqueeze(-1).to(one_hot_T1E.dtype)
        call.args = (hidden, chosen_TKE, weights_TK.to(weights_T1.dtype))


class GatedMask(Passage):
    """NLLB-MoE: `experts(hidden, mask of the first choice (T, E), gate weights (T, E) of both choices)`."""

    fixed_ids = True

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        weights_TK, ids_TK = call.args[2].topk(2, dim=-1)
        return ids_TK.where(weights_TK != 0, -1), weights_TK

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        assert weights_TK is not None
        hidden, mask_TE, gates_TE = call.args
        call.args = (hidden, mask_TE, dense(ids_TK, weights_TK, gates_TE))


class SkipExpert(ExpertsCall):
    """Zaya: the skip choice is handed over as expert 0 with weight 0; here it has an id of its own."""

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.skip = skip

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        ids_TK, weights_TK = super().read(call)
        return ids_TK if weights_TK is None else ids_TK.where(weights_TK != 0, self.skip), weights_TK

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        skipped_TK = ids_TK == self.skip
        assert weights_TK is not None
        super().write(call, ids_TK.where(~skipped_TK, 0), weights_TK.where(~skipped_TK, 0))

    def alone(self, call: Call, rows_N: Tensor, ids_N: Tensor) -> Tensor:
        skipped_N = ids_N == self.skip
        return super().alone(call, rows_N, ids_N.where(~skipped_N, 0)).masked_fill(skipped_N.unsqueeze(-1), 0)


class EmergentCall(ExpertsCall):
    """Emergent experts: the module returns neurons, which the layer after it takes back to the hidden width."""

    def __init__(self, block: EmergentMoE) -> None:
        super().__init__()
        self.block = block

    def alone(self, call: Call, rows_N: Tensor, ids_N: Tensor) -> Tensor:
        return self.block.alone(flat(call.args[0])[rows_N], ids_N)

    def routed(self, call: Call) -> Tensor:
        return self.block.down_alone(flat(call.output))

    def factors(self, call: Call) -> Tensor:
        return call.module.factors(*call.args)


class ProductKeys(Passage):
    """Doge: expert i * n + j has the score x_i + y_j; experts are rows that the embedding `up_embed` looks up
    by their ids. No module gets the gate weights: they are the softmax of the chosen scores."""

    at = "output"
    fixed_ids = True
    no_outputs = "an expert is a row of two embeddings, and no module runs one alone"

    def __init__(self, block: Any) -> None:
        self.keys: int = block.num_keys
        self.normalise: bool = block.norm_topk_prob
        self.scores_TE: Tensor | None = None

    def logits(self, call: Call) -> Tensor:
        """All scores, from the output (batch, length, 2n) of the linear layer, read as the model reads it."""
        x_TN, y_TN = call.output.detach().view(2, -1, self.keys)
        scores_TE = (x_TN.unsqueeze(-1) + y_TN.unsqueeze(-2)).flatten(1)
        self.scores_TE = scores_TE
        return scores_TE

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        assert self.scores_TE is not None
        ids_TK = flat(call.args[0])
        weights_TK = self.scores_TE.gather(-1, ids_TK).softmax(-1)
        return ids_TK, weights_TK / weights_TK.sum(-1, keepdim=True) if self.normalise else weights_TK

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        _, before_TK = self.read(call)
        assert weights_TK is not None
        assert before_TK is not None
        if weights_TK.shape != before_TK.shape:
            raise SteeringError("Doge cannot use more experts per token than it was built for")
        factor_TK = torch.where(before_TK == 0, 0, weights_TK / before_TK)
        call.output = call.output * factor_TK.reshape(*call.output.shape[:-1], 1).to(call.output.dtype)


class ProductAxis(Passage):
    """Monet: a router gives (g1, g2), each (batch, length, heads, keys), zero for what a head did not choose. One axis
    is a router here, expert h * keys + i, so that a token's events are the few keys of each head, never products."""

    at = "output"
    no_outputs = "an expert is a pair of keys, and no module runs one alone"

    def __init__(self, axis: int, heads: int, keys: int) -> None:
        self._axis, self._heads, self.keys = axis, heads, keys

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        gate_TE = call.output[self._axis].reshape(-1, self._heads * self.keys)
        # How many keys a head chooses varies: as many slots as the busiest token needs.
        width = max(int((gate_TE > 0).sum(-1).max()), 1) if len(gate_TE) else 1
        weights_TK, ids_TK = gate_TE.topk(width, dim=-1)
        return ids_TK.masked_fill(weights_TK <= 0, -1), weights_TK

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        assert weights_TK is not None
        before = call.output[self._axis]
        gate_TE = before.new_zeros(len(ids_TK), self._heads * self.keys)
        # Slots without an expert come as some valid id with weight 0.
        gate_TE.scatter_add_(-1, ids_TK, weights_TK.to(before.dtype))
        changed = [*call.output]
        changed[self._axis] = gate_TE.reshape(before.shape)
        call.output = tuple(changed)
