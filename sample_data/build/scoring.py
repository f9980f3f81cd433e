"""Log-likelihood and routing of many texts under the sample model, with experts switched off if asked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class Scores:
    nats: np.ndarray
    """(N,) negative log-likelihood of each text's tokens after its first, which is <|endoftext|>."""
    tokens: np.ndarray
    """(N,) how many tokens that is."""
    chosen: np.ndarray
    """(N, L, E) how many of those tokens chose an expert."""
    probability: np.ndarray
    """(N, L, E) mean router probability over those tokens."""


def routers(model) -> list[torch.nn.Module]:
    return [layer.mlp.gate for layer in model.model.layers]


@contextmanager
def switched_off(model, experts: Collection[tuple[int, int]]) -> Iterator[None]:
    """Inside, no token can choose these (layer, expert) pairs: their router logits are -inf."""

    def edit(off: list[int]):
        def hook(gate, _inputs, output):
            logits = output[0].index_fill(-1, torch.tensor(off), float("-inf"))
            weights, ids = logits.softmax(dim=-1).topk(gate.top_k, dim=-1)
            return logits, weights / weights.sum(dim=-1, keepdim=True), ids

        return hook

    by_layer = {layer: [e for at, e in experts if at == layer] for layer, _ in experts}
    handles = [routers(model)[layer].register_forward_hook(edit(off)) for layer, off in by_layer.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded(model) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """A list that holds (probabilities, chosen ids) of each layer after a forward pass."""
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(_gate, _inputs, output) -> None:
        seen.append((output[0].softmax(dim=-1), output[2]))

    handles = [gate.register_forward_hook(hook) for gate in routers(model)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def batches(texts: Sequence[np.ndarray], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of texts of similar length, at most `batch_tokens` padded tokens together."""
    batch: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: len(texts[i])):
        if batch and len(texts[i]) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.no_grad()
def score(model, texts: Sequence[np.ndarray], *, batch_tokens: int = 4096, what: str = "") -> Scores:
    """Scores token id arrays that begin with <|endoftext|>; padding stands behind, so it is never seen."""
    config = model.config
    shape = (len(texts), config.num_hidden_layers, config.num_experts)
    nats, chosen, probability = np.zeros(len(texts)), np.zeros(shape), np.zeros(shape)
    tokens = np.array([len(text) - 1 for text in texts])
    with recorded(model) as seen, tqdm(total=len(texts), desc=what, mininterval=5, leave=False) as bar:
        for batch in batches(texts, batch_tokens):
            ids = torch.zeros(len(batch), max(len(texts[i]) for i in batch), dtype=torch.int64)
            for row, i in enumerate(batch):
                ids[row, : len(texts[i])] = torch.from_numpy(texts[i].astype(np.int64))
            seen.clear()
            logits = model(ids).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
            real = torch.arange(1, ids.shape[1]) <= torch.from_numpy(tokens[batch])[:, None]
            nats[batch] = (loss * real).sum(dim=1).numpy()
            weight = torch.nn.functional.pad(real, (1, 0)).flatten()[:, None].float()
            for layer, (p_TE, ids_TK) in enumerate(seen):
                hot_TE = torch.zeros_like(p_TE).scatter_(1, ids_TK, 1.0)
                for target, value in ((chosen, hot_TE), (probability, p_TE)):
                    target[batch, layer] = (value * weight).view(*ids.shape, -1).sum(dim=1).numpy()
            bar.update(len(batch))
    return Scores(nats, tokens, chosen, probability / tokens[:, None, None])
