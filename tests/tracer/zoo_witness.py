"""What the experts of a model execute, seen without hooks: their classes' `forward` is replaced for a while.

`witness` records every call of an experts module, with the expert ids and gate weights that it got and the
output that it made. `Execution.reconstructed` then computes that output once more from single experts, one at
a time with weight 1: only if both agree are the recorded ids and weights what was really executed.

Shapes: T rows, K experts per row, E experts, H width. An id of -1 is a slot without an expert.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn


@dataclass
class Execution:
    """One call of the experts of one layer."""

    path: str
    """Module path of the experts; of the router or the block where no experts module gets a decision."""
    ids: Tensor
    """(T, K) in the order of the slots."""
    weights: Tensor
    """(T, K)"""
    hidden: Tensor
    """(T, H): what the experts saw."""
    output: Tensor | None = None
    """(T, H): what they made of it together; None where other parts are mixed in."""
    one_expert: Callable[[int, Tensor], Tensor] | None = None
    """Expert id and hidden states (T, H) → its unweighted output."""

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Ids and weights in descending weight, ties in the order of the slots; both (T, K)."""
        weights, order = self.weights.sort(dim=-1, descending=True, stable=True)
        return self.ids.gather(-1, order), weights

    def reconstructed(self) -> Tensor:
        """(T, H): the output, from single experts and the recorded ids and weights."""
        assert self.one_expert is not None
        assert self.output is not None
        total = torch.zeros_like(self.output, dtype=torch.float32)
        for expert in self.ids[self.ids >= 0].unique().tolist():
            weight_T = (self.weights * (self.ids == expert)).sum(-1)
            total += weight_T[:, None] * self.one_expert(expert, self.hidden).float()
        return total


@contextmanager
def witness(model: nn.Module) -> Iterator[list[Execution]]:
    """Records, while it is entered, every execution of routed experts in the order of the calls."""
    seen: list[Execution] = []
    paths = {id(module): path for path, module in model.named_modules()}
    with ExitStack() as stack:
        for cls in {type(module) for module in model.modules()}:
            watch = next((watch for name, watch in WATCHES.items() if re.fullmatch(name, cls.__name__)), None)
            if watch is not None:
                stack.enter_context(watch(cls, paths, seen))
        yield seen


def _decision_call(cls: type, paths: dict[int, str], seen: list[Execution]) -> Any:
    """`experts(hidden, ids, weights)`, which nearly all have."""
    original = cls.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        output = original(self, *args, **kwargs)
        hidden, ids, weights = [*args, *kwargs.values()]
        width = hidden.shape[-1]

        def one_expert(expert: int, hidden_TH: Tensor) -> Tensor:
            # Two slots, the second without weight: LongCat-Flash does not accept a single one.
            ids_T2 = torch.full((len(hidden_TH), 2), expert)
            weights_T2 = torch.tensor([1.0, 0.0], dtype=weights.dtype).expand(ids_T2.shape)
            return original(self, hidden_TH, ids_T2, weights_T2).reshape(-1, width)

        flat = hidden.reshape(-1, width), output.reshape(-1, width)
        record = (x.detach().clone() for x in (ids, weights, *flat))
        seen.append(Execution(paths[id(self)], *record, one_expert=one_expert))
        return output

    return patch.object(cls, "forward", forward)


def _one_hot_call(cls: type, paths: dict[int, str], seen: list[Execution]) -> Any:
    """Switch Transformers: one-hot (T, 1, E), all zero where the expert had no room for the token."""
    original = cls.forward

    def forward(self: Any, hidden: Tensor, chosen_T1E: Tensor, weights_T1: Tensor) -> Tensor:
        output = original(self, hidden, chosen_T1E, weights_T1)
        routed_T1 = chosen_T1E.sum(-1) > 0
        ids = torch.where(routed_T1, chosen_T1E.argmax(-1), -1)
        weights = torch.where(routed_T1, weights_T1, 0.0)
        one_expert = lambda expert, hidden_TH: self[f"expert_{expert}"](hidden_TH)  # noqa: E731
        seen.append(Execution(paths[id(self)], ids, weights, hidden.clone(), output.clone(), one_expert))
        return output

    return patch.object(cls, "forward", forward)


def _masked_call(cls: type, paths: dict[int, str], seen: list[Execution]) -> Any:
    """NLLB-MoE as the router means it: the (at most two) experts with a gate weight above 0."""
    original = cls.forward

    def forward(self: Any, hidden: Tensor, mask_TE: Tensor, gates_TE: Tensor) -> Tensor:
        output = original(self, hidden, mask_TE, gates_TE)
        weights, ids = gates_TE.sort(dim=-1, descending=True, stable=True)
        ids = torch.where(weights > 0, ids, -1)[:, :2]
        keep = 1 - self.moe_token_dropout
        one_expert = lambda expert, hidden_TH: keep * self[f"expert_{expert}"](hidden_TH)  # noqa: E731
        record = (ids, weights[:, :2], hidden.clone(), output.clone(), one_expert)
        seen.append(Execution(paths[id(self)], *record))
        return output

    return patch.object(cls, "forward", forward)


def _weighted_inputs(cls: type, paths: dict[int, str], seen: list[Execution]) -> Any:
    """Llama 4: every expert gets every row, multiplied by its gate weight, which is 0 for the unchosen."""
    original, inside = cls.forward, {}

    def forward(self: Any, hidden: Tensor) -> Any:
        experts_class = type(self.experts)
        run = experts_class.forward

        def experts_forward(experts: Any, routed: Tensor) -> Tensor:
            inside["routed"] = routed.detach().clone()
            return run(experts, routed)

        with patch.object(experts_class, "forward", experts_forward):
            output = original(self, hidden)
        flat_TH = hidden.reshape(-1, hidden.shape[-1])
        routed_ETH = inside.pop("routed").reshape(-1, *flat_TH.shape)
        gates_TE = ((routed_ETH * flat_TH).sum(-1) / flat_TH.square().sum(-1)).T
        weights, ids = gates_TE.sort(dim=-1, descending=True, stable=True)
        k = int((weights > 0).sum(-1).max())
        ids = torch.where(weights > 0, ids, -1)
        seen.append(Execution(f"{paths[id(self)]}.router", ids[:, :k], weights[:, :k], flat_TH.clone()))
        return output

    return patch.object(cls, "forward", forward)


def _sorted_slots(cls: type, paths: dict[int, str], seen: list[Execution]) -> Any:
    """JetMoe: the gating hands its T*K slots over sorted by expert, and how many slots each expert has."""
    original = cls.forward

    def forward(self: Any, hidden: Tensor) -> Any:
        output = original(self, hidden)
        slots, tokens, gates, counts, _ = output
        ids = torch.full((len(hidden), self.top_k), -1)
        weights = torch.zeros(ids.shape, dtype=gates.dtype)
        start = 0
        for expert, count in enumerate(counts):
            for place in range(start, start + count):
                token, slot = int(tokens[place]), int(slots[place]) - int(tokens[place]) * self.top_k
                ids[token, slot], weights[token, slot] = expert, gates[place]
            start += count
        seen.append(Execution(paths[id(self)], ids, weights, hidden.clone()))
        return output

    return patch.object(cls, "forward", forward)


def _product_keys(cls: type, paths: dict[int, str], seen: list[Execution]) -> Any:
    """Doge: ids are looked up in an embedding, weights are the only softmax of the block."""
    original = cls.forward
    functional = nn.functional

    def forward(self: Any, hidden: Tensor, **kwargs: Any) -> Any:
        ids: list[Tensor] = []
        weights: list[Tensor] = []
        look_up = self.up_embed.forward

        def embed(indices: Tensor) -> Tensor:
            ids.append(indices.clone())
            return look_up(indices)

        def softmax(scores: Tensor, dim: int) -> Tensor:
            weights.append(functional.softmax(scores, dim=dim))
            return weights[-1]

        namespace = patch.dict(original.__globals__, F=SimpleNamespace(softmax=softmax))
        with namespace, patch.object(self.up_embed, "forward", embed):
            output = original(self, hidden, **kwargs)
        flat_TH = hidden.reshape(-1, hidden.shape[-1])
        seen.append(Execution(paths[id(self)], ids[0], weights[0].clone(), flat_TH.clone()))
        return output

    return patch.object(cls, "forward", forward)


def _given_expert(cls: type, paths: dict[int, str], seen: list[Execution]) -> Any:
    """ViTPose: one expert for a whole image, given by the caller."""
    original = cls.forward

    def forward(self: Any, hidden: Tensor, indices: Tensor) -> Tensor:
        output = original(self, hidden, indices)
        ids = indices.reshape(-1, 1).clone()
        seen.append(Execution(paths[id(self)], ids, torch.ones(ids.shape), hidden.clone()))
        return output

    return patch.object(cls, "forward", forward)


WATCHES: dict[str, Callable[[type, dict[int, str], list[Execution]], Any]] = {
    "SwitchTransformersExperts": _one_hot_call,
    "NllbMoeExperts": _masked_call,
    "Llama4TextMoe": _weighted_inputs,
    "JetMoeTopKGating": _sorted_slots,
    "DogeCDMoE": _product_keys,
    "VitPoseNaiveMoe": _given_expert,
    r"(?!Llama4Text|JetMoeParallel|InklingShared)\w+Experts": _decision_call,
}
