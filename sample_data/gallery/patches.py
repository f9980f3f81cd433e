"""Experts over the patches of an image, by task.

A small vision transformer with two tasks. Its gates know which task they work for, so the same patch goes to other
experts when the task is switched (M³ViT).

Systems: 37 M³ViT (arXiv 2210.14793)
Real: a vision transformer with mixtures in its layers, gates that also read an embedding of the task, two trained
    tasks: which digit it is, and how much the ink changes within each patch.
Toy: digits of 8 × 8 pixels drawn by rule, 16 patches of 2 × 2, 6 experts; one router with a task embedding (the paper
    also has a router for each task).
Not shown: the paper's benchmarks and its hardware design.
Look at: the overlay of experts on the image's patches, on the page Tokens: the same image under both tasks.
Opens: tokens?prompt=image 0, digit&layer=1
"""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moescope.sample_data.gallery.kit import Attention, Experts, Gate, drawn_digits, picture_of, save, train
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing

TASKS = ("digit", "edges")
SIDE, EXPERTS, TOP, WIDTH, LAYERS = 4, 6, 2, 32, 2
"""Patches along each side, experts, experts of a patch, width, layers."""


def patches_of(images: Tensor) -> Tensor:
    """(B, 8, 8) → (B, 16, 4): the pixels of each patch, row by row."""
    return images.unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(images), SIDE * SIDE, 4)


class Layer(nn.Module):
    """Attention and a mixture whose gate reads patch and task."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm, self.task = Attention(WIDTH), nn.LayerNorm(WIDTH), nn.Embedding(2, WIDTH)
        self.gate, self.experts = Gate(2 * WIDTH, EXPERTS, TOP), Experts(EXPERTS, WIDTH, 32)
        self.balance = torch.zeros(())

    def forward(self, x: Tensor, task: int) -> Tensor:
        x = self.attention(x)
        rows = self.norm(x)
        known = 3 * self.task.weight[task].expand_as(rows)
        ids, weights, logits = self.gate(torch.cat([rows, known], -1))
        used = F.one_hot(ids, EXPERTS).float().sum(-2).flatten(0, -2).mean(0)
        self.balance = EXPERTS / TOP * (used * logits.softmax(-1).flatten(0, -2).mean(0)).sum()
        return x + self.experts(rows, ids, weights / weights.sum(-1, keepdim=True))


class Vision(nn.Module):
    """Patches → layers → digits of the image, or the edges of each patch."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.place = nn.Linear(4, WIDTH), nn.Parameter(torch.randn(SIDE * SIDE, WIDTH) / 2)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.digit, self.edges = nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 1)

    def forward(self, patches: Tensor, task: int) -> Tensor:
        x = self.into(patches) + self.place
        for layer in self.layers:
            x = layer(x, task)
        return self.digit(x.mean(1)) if task == 0 else self.edges(x)[..., 0]


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Train on both tasks in turn, then record new images under both."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, (images, digits) = Vision(), drawn_digits(200 if small else 2000, rng)
    patches = patches_of(images)

    def loss(step: int) -> Tensor:
        pick = torch.randint(len(images), (48,))
        found = model(patches[pick], step % 2)
        aim = patches[pick].std(-1, unbiased=False)
        error = F.cross_entropy(found, digits[pick]) if step % 2 == 0 else 10 * (found - aim).square().mean()
        return error + 0.05 * sum(layer.balance for layer in model.layers)  # pyright: ignore

    train(model.parameters(), loss, 60 if small else 800)
    images, digits = drawn_digits(12 if small else 60, rng)
    router = DeclaredRouter(
        router="layers.*.gate", num_experts=EXPERTS, top_k=TOP, ids=0, logits=2, steerable=False,
        weights=lambda call: call.output[1] / call.output[1].sum(-1, keepdim=True),
    )  # fmt: skip
    with torch.no_grad(), record_routing(model, routers=[router]) as routing:
        found, edges = (model(patches_of(images), task) for task in range(2))
    aim = patches_of(images).std(-1, unbiased=False)
    samples = [
        {"id": f"image {n}, {task}", "text": f"image {n} for the task {task}", "task": task, "digit": int(digit),
         "image": n, "parallel_id": f"image {n}", "grid": f"{SIDE}x{SIDE}", "picture": picture_of(image)}
        for task in TASKS for n, (image, digit) in enumerate(zip(images, digits, strict=True))
    ]  # fmt: skip
    measured = {
        "digits_right": round(float((found.argmax(-1) == digits).float().mean()), 3),
        "edges_explained": round(1 - float((edges - aim).square().mean() / aim.var()), 3),
    }
    rows = [f"patch {y},{x}" for y in range(SIDE) for x in range(SIDE)]
    return save("patches", out, routing, samples=samples, rows=rows, measured=measured)
