"""What several examples share: texts, drawn digits, a gate, experts, a small language model, a training loop.

Shapes: B samples, L rows of a sample, D width, E experts, K experts used, H hidden units of an expert.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moescope.sample_data.gallery import card
from moescope.store import Trace, open_trace
from moescope.store.files.folder import open_folder
from moescope.tracer import save_routing
from moescope.tracer.hooks.record import Routing

SAMPLE = Path(__file__).parent.parent
GLYPHS = (
    "0110 1001 1001 1001 0110", "0010 0110 0010 0010 0111", "1110 0001 0110 1000 1111", "1110 0001 0110 0001 1110",
    "1001 1001 1111 0001 0001", "1111 1000 1110 0001 1110", "0110 1000 1110 1001 0110", "1111 0001 0010 0100 0100",
    "0110 1001 0110 1001 0110", "0110 1001 0111 0001 0110",
)  # fmt: skip
"""Digits of 5 rows × 4 columns."""


class Gate(nn.Module):
    """Linear scores, softmax, top-k: ids (..., K), weights (..., K), logits (..., E)."""

    def __init__(self, width: int, experts: int, k: int) -> None:
        super().__init__()
        self.score, self.k = nn.Linear(width, experts, bias=False), k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.score(x)
        weights, ids = logits.softmax(-1).topk(self.k, dim=-1)
        return ids, weights, logits


class Experts(nn.Module):
    """E feed-forward networks D → H → D; all are computed, which is cheap at this size."""

    def __init__(self, experts: int, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(experts, width, hidden) / width**0.5)
        self.outer = nn.Parameter(torch.randn(experts, hidden, out or width) / hidden**0.5)

    def each(self, x: Tensor) -> Tensor:
        """Output of every expert: (..., E, D)."""
        return torch.einsum(
            "...eh,ehd->...ed", torch.einsum("...d,edh->...eh", x, self.inner).relu(), self.outer
        )

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        dense = torch.zeros(*x.shape[:-1], len(self.inner)).scatter(-1, ids, weights)
        return torch.einsum("...e,...ed->...d", dense, self.each(x))


class Mixture(nn.Module):
    """A gate and its experts, added to the residual stream."""

    def __init__(self, width: int, experts: int, k: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.experts = Gate(width, experts, k), Experts(experts, width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        ids, weights, _ = self.gate(x)
        return x + self.experts(x, ids, weights)


class Attention(nn.Module):
    """Self-attention with a residual connection, causal or not."""

    def __init__(self, width: int, heads: int = 4, *, causal: bool = False) -> None:
        super().__init__()
        self.norm, self.heads, self.causal = nn.LayerNorm(width), heads, causal
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for part in self.into(self.norm(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return x + self.out(mixed.transpose(-2, -3).flatten(-2))


class Decoder(nn.Module):
    """A causal language model whose feed-forward layers are what `mixture` makes."""

    def __init__(
        self, vocabulary: int, length: int, width: int, layers: int, mixture: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"attention": Attention(width, causal=True), "norm": nn.LayerNorm(width), "moe": mixture()}
            )
            for _ in range(layers)
        )
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids_BL: Tensor) -> Tensor:
        x = self.embed(ids_BL) + self.place.weight[: ids_BL.shape[1]]
        for layer in self.layers:
            parts: Any = layer
            x = parts["attention"](x)
            x = x + parts["moe"](parts["norm"](x))
        return self.head(x)


def next_token_loss(model: nn.Module, ids_BL: Tensor) -> Tensor:
    """Cross-entropy of each next token, nats."""
    return F.cross_entropy(model(ids_BL[:, :-1]).flatten(0, 1), ids_BL[:, 1:].flatten())


def train(parameters: Any, loss: Callable[[int], Tensor], steps: int, rate: float = 3e-3) -> float:
    """Adam on what `loss` gives at each step; the mean loss of the last tenth."""
    optimiser = torch.optim.Adam(parameters, lr=rate)
    last: list[float] = []
    for step in range(steps):
        optimiser.zero_grad()
        value = loss(step)
        value.backward()
        optimiser.step()
        last.append(float(value.detach()))
    return float(np.mean(last[-max(steps // 10, 1) :]))


def sample_texts(languages: Sequence[str], most: int) -> list[dict[str, str]]:
    """The first texts of each language of the sample's prompt set udhr.csv: id, text, language."""
    with open(SAMPLE / "udhr.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["language"] in languages]
    return [row for code in languages for row in [row for row in rows if row["language"] == code][:most]]


def windows(
    texts: Sequence[dict[str, str]], length: int
) -> tuple[Tensor, list[dict[str, str]], list[list[str]], list[int]]:
    """Texts as windows of equally many tokens of the sample's tokenizer, and what is over left out.

    Returns:
        ids (N, length) counted from 0 over the tokens that occur, a sample for each window, the tokens' own texts,
        and the tokenizer's own ids of the tokens that occur.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(SAMPLE / "model" / "tokenizer.json"))
    found = [(text, tokenizer.encode(text["text"], add_special_tokens=False)) for text in texts]
    cut = [
        (text, e.ids[at : at + length], at)
        for text, e in found
        for at in range(0, len(e.ids) - length + 1, length)
    ]
    known = sorted({token for _, ids, _ in cut for token in ids})
    number = {token: at for at, token in enumerate(known)}
    samples = [
        {"id": f"{text['id']}+{at}", "text": tokenizer.decode(ids), "language": text["language"]}
        for text, ids, at in cut
    ]
    names = [[tokenizer.decode([token]) for token in ids] for _, ids, _ in cut]
    return torch.tensor([[number[token] for token in ids] for _, ids, _ in cut]), samples, names, known


def drawn_digits(count: int, rng: np.random.Generator, noise: float = 0.15) -> tuple[Tensor, Tensor]:
    """Images (N, 8, 8) in [0, 1] and digits (N,): a glyph at a place, strength and noise that are drawn."""
    glyphs = np.array(
        [[[int(cell) for cell in row] for row in glyph.split()] for glyph in GLYPHS], np.float32
    )
    labels = rng.integers(0, 10, count)
    images = np.zeros((count, 8, 8), np.float32)
    for image, label, y, x in zip(
        images, labels, rng.integers(0, 4, count), rng.integers(0, 5, count), strict=True
    ):
        image[y : y + 5, x : x + 4] = glyphs[label] * rng.uniform(0.6, 1)
    images += rng.normal(0, noise, images.shape).astype(np.float32)
    return torch.from_numpy(images.clip(0, 1)), torch.from_numpy(labels)


def by_sample(routing: Routing, samples: int) -> Routing:
    """A recording whose rows came step by step, all samples at each step, with the rows of a sample together."""
    turned = Routing()
    turned.routers = routing.routers
    for spec in routing.routers:
        key = (spec.layer, spec.stream)
        columns = [
            None if column is None else column.unflatten(0, (-1, samples)).transpose(0, 1).flatten(0, 1)
            for column in (routing.ids(*key), routing.weights(*key), routing.logits(*key))
        ]
        assert columns[0] is not None
        turned.routed(spec, columns[0], columns[1], columns[2])
    return turned


def picture_of(image: Tensor) -> str:
    """An image (rows, columns) in [0, 1] as the text of a PNG: what the tag `picture` holds."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray((image.numpy() * 255).round().astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def save(
    name: str, out: str | PathLike[str], routing: Routing, *, samples: Sequence[dict[str, Any]],
    rows: Any = None, measured: Mapping[str, Any] | None = None, passed: Mapping[str, Sequence[int]] | None = None,
) -> Trace:  # fmt: skip
    """Write the trace of an example: the manifest's settings tell its name, what is toy about it, and what the script
    measured."""
    if rows and isinstance(rows[0], str):
        rows = [f" {name}" for name in rows]  # names stand apart where the app shows them as a text
    return save_routing(
        routing,
        out,
        samples=samples,
        rows=rows,
        model=_title(name),
        passed=passed,
        settings=_told(name, measured or {}),
    )


def annotate(name: str, out: str | PathLike[str], measured: Mapping[str, Any] | None = None) -> Trace:
    """The same for a trace that an import wrote."""
    manifest = open_trace(out).manifest
    manifest.model["name"] = _title(name)
    manifest.settings |= _told(name, measured or {})
    manifest.save(open_folder(out))
    return open_trace(out)


def _title(name: str) -> str:
    return f"{card(name).title} (gallery example)"


def _told(name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    return {"example": name, "toy": card(name).toy.replace("`", ""), "measured": dict(measured)}
