"""Product keys: 9,216 experts per head.

A small language model whose experts are pairs. Two small gates choose a row and a column each, and an expert is what
the row reads and the column writes, so that thousands of experts cost two lists of 96 (Monet).

Systems: 28 Monet (arXiv 2412.04139)
Real: the factorised computation, both gates of each head, the sparse storage of rollups above 8,192 experts, and what
    masking a row does: its 96 experts lose their weight and no other expert changes.
Toy: 2 heads of 96 × 96 experts in 2 layers (Monet: 262,144 experts a layer), trained on some thousand tokens. The gates
    are softmax and top 3; Monet's batch normalisation of the scores is left out.
Not shown: domain masking or any behaviour of the released models.
Look at: streams `head0` and `head1`. The tokens of single experts are in the settings under `tokens_of_experts`, and in
    the drawer of an expert.
Opens: structure?question=Load&stream=head0
"""

from __future__ import annotations

from collections import Counter
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from moescope.sample_data.gallery.kit import Decoder, next_token_loss, sample_texts, save, train, windows
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing

KEYS, HEADS, TOP, WIDTH, INNER = 96, 2, 3, 32, 4


class ProductGate(nn.Module):
    """The gates of one head: (ids, weights, row weights, column weights).

    Expert 96 · row + column has the weight of its row times that of its column; pairs come by falling weight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Linear(WIDTH, KEYS, bias=False), nn.Linear(WIDTH, KEYS, bias=False)
        self.masked_rows: list[int] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        row_N, column_N = (self._top(part(x)) for part in (self.rows, self.columns))
        row_N = row_N.index_fill(-1, torch.tensor(self.masked_rows, dtype=torch.long), 0)
        (row, i), (column, j) = (part.topk(TOP, dim=-1) for part in (row_N, column_N))
        pairs = (row[..., :, None] * column[..., None, :]).flatten(-2)
        ids = (KEYS * i[..., :, None] + j[..., None, :]).flatten(-2)
        weights, order = pairs.sort(dim=-1, descending=True, stable=True)
        return ids.gather(-1, order).where(weights > 0, -1), weights, row_N, column_N

    @staticmethod
    def _top(scores: Tensor) -> Tensor:
        """Softmax over all keys, 0 but for the largest; not renormalised."""
        weights = scores.softmax(-1)
        values, ids = weights.topk(TOP, dim=-1)
        return torch.zeros_like(weights).scatter(-1, ids, values)


class Monet(nn.Module):
    """Expert (i, j) of x is outer_j · relu(inner_i · x): the sum over pairs is a product of two sums."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(ProductGate() for _ in range(HEADS))
        self.inner = nn.Parameter(torch.randn(KEYS, WIDTH, INNER) / WIDTH**0.5)
        self.outer = nn.Parameter(torch.randn(KEYS, INNER, WIDTH) / INNER**0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("...d,ndm->...nm", x, self.inner).relu()
        total = torch.zeros_like(x)
        for head in self.heads:
            _, _, row_N, column_N = head(x)
            read = torch.einsum("...n,...nm->...m", row_N, hidden)
            total = total + torch.einsum("...n,...m,nmd->...d", column_N, read, self.outer)
        return total


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Train the language model, then record it."""
    torch.manual_seed(seed)
    length = 24
    ids, texts, names, own = windows(sample_texts(("en", "de", "fr", "es"), 4 if small else 40), length)
    model = Decoder(len(own), length, WIDTH, 2, Monet)

    def loss(step: int) -> Tensor:
        return next_token_loss(model, ids[torch.randint(len(ids), (12,))])

    reached = train(model.parameters(), loss, 15 if small else 250)
    routers = [
        DeclaredRouter(router=f"layers.{layer}.moe.heads.{head}", layer=layer, num_experts=KEYS * KEYS,
                       top_k=TOP * TOP, ids=0, weights=1, stream=f"head{head}", steerable=False)
        for head in range(HEADS) for layer in range(2)
    ]  # fmt: skip
    with torch.no_grad(), record_routing(model, routers=routers) as routing:
        model(ids)
    words = [name for sample in names for name in sample]
    measured: dict[str, Any] = {"training_loss": round(reached, 3), "tokens_of_experts": {}}
    for spec in routing.routers:
        chosen = routing.ids(spec.layer, spec.stream)
        measured["tokens_of_experts"][f"layer {spec.layer}, {spec.stream}"] = tokens_of_experts(chosen, words)
    return save("product_keys", out, routing, samples=texts, rows=names, measured=measured)


def tokens_of_experts(ids_TK: Tensor, words: list[str], most: int = 3) -> dict[str, dict[str, int]]:
    """Of the experts that are chosen most, the tokens that choose them most, with how often."""
    experts = Counter(ids_TK.flatten().tolist()).most_common(most)
    found = {}
    for expert, _ in experts:
        rows = (ids_TK == expert).any(-1).nonzero().flatten().tolist()
        found[f"({expert // KEYS}, {expert % KEYS})"] = dict(
            Counter(words[row] for row in rows).most_common(5)
        )
    return found
