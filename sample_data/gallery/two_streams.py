"""Two streams of routers in one layer.

A transformer that learns bandits in its context, with two mixtures side by side in each layer: one chooses experts for
each token, the other once for the whole task (T2MIR).

Systems: 12 T2MIR (arXiv 2506.05426)
Real: token-wise and task-wise mixture in one layer, a contrastive loss that pulls the task gates of one task together
    and those of different tasks apart, and tasks that are only told by their history of actions and rewards.
Toy: four bandits with four arms instead of control tasks; the model imitates the best arm, it does not do
    reinforcement learning. The task gate sees the whole history at once, also for its early steps. The contrastive
    loss is InfoNCE on the task gates' probabilities, a simplified form.
Not shown: generalisation to unseen tasks, and any return that the paper reports.
Look at: streams `decoder` (token) and `task`. The task stream's experts tell the task; the token stream's tell action
    and reward. Structure's information about the task stands beside its
    permutation null.
Opens: structure?question=Specialisation&stream=task
"""

from __future__ import annotations

from os import PathLike

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moescope.sample_data.gallery.kit import Attention, Experts, Gate, save, train
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing

ARMS, EXPERTS, WIDTH, LAYERS = 4, 6, 32, 2
GOOD, BAD = 0.9, 0.2
"""Chance of a reward from the best arm of a task, and from each other arm."""


class TwoStreams(nn.Module):
    """Attention, then a token-wise and a task-wise mixture; both read the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = Attention(WIDTH, causal=True), nn.LayerNorm(WIDTH)
        self.token_gate, self.task_gate = Gate(WIDTH, EXPERTS, 2), Gate(WIDTH, ARMS, 1)
        self.token_experts, self.task_experts = Experts(EXPERTS, WIDTH, 32), Experts(ARMS, WIDTH, 32)
        self.task_probability = torch.empty(0)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x = self.attention(x_BLD)
        rows = self.norm(x)
        ids, weights, _ = self.token_gate(rows)
        # One decision for the task, from all of its history.
        task_ids, task_weights, logits = self.task_gate(rows.mean(1, keepdim=True))
        self.task_probability = logits[:, 0].softmax(-1)
        shape = (*rows.shape[:2], 1)
        task = self.task_experts(rows, task_ids.expand(shape), task_weights.expand(shape))
        return x + self.token_experts(rows, ids, weights) + task


class Bandit(nn.Module):
    """From pairs of arm and reward to the best arm, at every step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(2 * ARMS, WIDTH), nn.Embedding(steps, WIDTH)
        self.layers = nn.ModuleList(TwoStreams() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, ARMS)

    def forward(self, history_BL: Tensor) -> Tensor:
        x = self.embed(history_BL) + self.place.weight
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def histories(count: int, steps: int) -> tuple[Tensor, Tensor]:
    """Arms drawn evenly, with their rewards, as 2 · arm + reward (B, L); and the task, its best arm (B,)."""
    task, arm = torch.arange(count) % ARMS, torch.randint(ARMS, (count, steps))
    chance = torch.where(arm == task[:, None], GOOD, BAD)
    return 2 * arm + (torch.rand(count, steps) < chance).long(), task


def contrast(probability_BE: Tensor, task_B: Tensor) -> Tensor:
    """InfoNCE: a history's gate is more like those of its own task than those of others."""
    unit = F.normalize(probability_BE, dim=-1)
    likeness = (unit @ unit.T / 0.1).fill_diagonal_(-torch.inf)
    same = (task_B[:, None] == task_B).fill_diagonal_(False)
    return -(likeness.log_softmax(-1).masked_fill(~same, 0).sum(-1) / same.sum(-1)).mean()


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Train on drawn histories, then record new ones."""
    torch.manual_seed(seed)
    steps = 24
    model = Bandit(steps)

    def loss(step: int) -> Tensor:
        history, task = histories(64, steps)
        found = F.cross_entropy(model(history).flatten(0, 1), task.repeat_interleave(steps))
        return found + 0.5 * sum(contrast(layer.task_probability, task) for layer in model.layers)  # pyright: ignore

    reached = train(model.parameters(), loss, 60 if small else 400)
    history, task = histories(40 if small else 160, steps)
    routers = [
        DeclaredRouter(router="layers.*.token_gate", num_experts=EXPERTS, top_k=2, ids=0, weights=1, logits=2),
        DeclaredRouter(router="layers.*.task_gate", num_experts=ARMS, top_k=1, ids=0, weights=1, logits=2,
                       stream="task"),
    ]  # fmt: skip
    with torch.no_grad(), record_routing(model, routers=routers) as routing:
        best = model(history)[:, -1].argmax(-1)
    samples = [
        {"id": f"history {n}", "text": f"history {n} of task {t}", "task": f"best arm {t}"}
        for n, t in enumerate(task)
    ]
    rows = [[f" arm {pair // 2}{' ✓' if pair % 2 else ' ✗'}" for pair in one] for one in history.tolist()]
    measured = {
        "training_loss": round(reached, 3),
        "best_arm_at_the_end": round(float((best == task).float().mean()), 3),
    }
    trace = save("two_streams", out, routing, samples=samples, rows=rows, measured=measured)
    return trace
