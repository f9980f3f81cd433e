"""Switch layers in a question answerer.

An encoder whose feed-forward layers choose one expert per token, trained on three made-up styles of questions, and
shown one that it has never seen (Robust QA).

Systems: 39 Robust QA with Switch FFN (arXiv 2204.09598)
Real: an encoder with switch layers (top 1, load-balancing loss), trained jointly on three data sets, and its expert use
    on these and on an unseen one.
Toy: questions over a vocabulary of 23 symbols: look up a letter's digit, find the largest digit, repeat the first
    letter. Unseen: look up a digit's letter. Answers are one symbol, read at the last token.
Not shown: robustness: this shows where tokens go, not that switching helps on unseen data.
Look at: specialisation by `dataset`; the measured distance of the unseen style's expert use from each seen style, by
    layer.
Opens: structure?question=Specialisation
"""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moescope.sample_data.gallery.kit import Attention, Experts, Gate, save, train
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing
from moescope.tracer.hooks.record import Routing

LETTERS = "abcdefghij"
SYMBOLS = "0123456789" + LETTERS + "?^<"
SEEN, UNSEEN = ("lookup", "largest", "first"), "reverse lookup"
LENGTH, EXPERTS, WIDTH, LAYERS = 8, 4, 32, 2


class Switch(nn.Module):
    """Attention and a switch layer: one expert per token."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = Attention(WIDTH), nn.LayerNorm(WIDTH)
        self.gate, self.experts = Gate(WIDTH, EXPERTS, 1), Experts(EXPERTS, WIDTH, 48)
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        rows = self.norm(x)
        ids, weights, logits = self.gate(rows)
        used = F.one_hot(ids[..., 0], EXPERTS).float().flatten(0, -2).mean(0)
        self.balance = EXPERTS * (used * logits.softmax(-1).flatten(0, -2).mean(0)).sum()
        return x + self.experts(rows, ids, weights)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(len(SYMBOLS), WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Switch() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, len(SYMBOLS))

    def forward(self, ids: Tensor) -> Tensor:
        """Scores of the answer, read at the last token."""
        x = self.embed(ids) + self.place.weight
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, -1])


def question(style: str, rng: np.random.Generator) -> tuple[str, str]:
    """LENGTH symbols: six of a text, the kind of question, what is asked for; and the answer."""
    letters, digits = rng.permutation(list(LETTERS))[:3], rng.permutation(list("0123456789"))[:3]
    pairs = "".join(a + b for a, b in zip(letters, digits, strict=True))
    at = rng.integers(3)
    if style == "lookup":
        return f"{pairs}?{letters[at]}", str(digits[at])
    if style == UNSEEN:
        return f"{pairs}?{digits[at]}", str(letters[at])
    if style == "largest":
        many = rng.integers(0, 10, 6)
        return "".join(map(str, many)) + "^^", str(many.max())
    many = rng.choice(list(LETTERS), 6)
    return "".join(many) + "<<", str(many[0])


def batch(styles: list[str], rng: np.random.Generator) -> tuple[Tensor, Tensor, list[str]]:
    asked = [question(style, rng) for style in styles]
    ids = torch.tensor([[SYMBOLS.index(symbol) for symbol in text] for text, _ in asked])
    return ids, torch.tensor([SYMBOLS.index(answer) for _, answer in asked]), [text for text, _ in asked]


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Train on the three seen styles, then record all four."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Encoder()
    pool, answers, _ = batch([SEEN[n % 3] for n in range(600 if small else 9000)], rng)

    def loss(step: int) -> Tensor:
        pick = torch.randint(len(pool), (64,))
        error = F.cross_entropy(model(pool[pick]), answers[pick])
        return error + 0.02 * sum(layer.balance for layer in model.layers)  # pyright: ignore

    train(model.parameters(), loss, 60 if small else 1200)
    styles = [style for style in (*SEEN, UNSEEN) for _ in range(20 if small else 80)]
    ids, answers, texts = batch(styles, rng)
    router = DeclaredRouter(router="layers.*.gate", num_experts=EXPERTS, top_k=1, ids=0, weights=1, logits=2,
                            stream="encoder")  # fmt: skip
    with torch.no_grad(), record_routing(model, routers=[router]) as routing:
        right = model(ids).argmax(-1) == answers
    use = {style: use_by_layer(routing, [one == style for one in styles]) for style in (*SEEN, UNSEEN)}
    measured = {
        "answers_right": {s: round(float(right[[one == s for one in styles]].float().mean()), 3) for s in use},
        "distance_of_the_unseen_style": {
            style: [round(float(np.abs(a / a.sum() - b / b.sum()).sum() / 2), 3)
                    for a, b in zip(use[style], use[UNSEEN], strict=True)] for style in SEEN
        },
    }  # fmt: skip
    samples = [{"id": f"{style} {n}", "text": text, "dataset": style, "seen": style in SEEN}
               for n, (style, text) in enumerate(zip(styles, texts, strict=True))]  # fmt: skip
    return save(
        "switch_encoder",
        out,
        routing,
        samples=samples,
        rows=[list(text) for text in texts],
        measured=measured,
    )


def use_by_layer(routing: Routing, mine: list[bool]) -> list[np.ndarray]:
    """How often some of the questions' tokens choose each expert, (E,) for each layer."""
    ids_LP = [routing.ids(layer, "encoder").reshape(len(mine), LENGTH)[mine] for layer in range(LAYERS)]
    return [np.bincount(ids.flatten(), minlength=EXPERTS) for ids in ids_LP]
