"""What the evaluation computes from scores: no model here."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scoring import Scores

from moescope.kernels.alignment import routing_divergence


@dataclass(frozen=True)
class Texts:
    """Texts of one split as parallel lists."""

    ids: list[np.ndarray]
    """Tokens of a text after <|endoftext|>."""
    text: list[str]
    language: list[str]
    english: list[str]

    @classmethod
    def load(cls, work: Path, split: str) -> Texts:
        corpus = pd.read_parquet(work / "corpus.parquet")
        tokens = np.load(work / "tokens.npz")
        rows = corpus.iloc[tokens[f"{split}_rows"]]
        ids = np.split(tokens[f"{split}_ids"], tokens[f"{split}_starts"][1:-1])
        return cls(ids, rows["text"].tolist(), rows["language"].tolist(), rows["english"].tolist())

    def sample(self, count: int, seed: int) -> Texts:
        """Up to `count` random texts of each language."""
        draw = np.random.default_rng(seed)
        picked: list[int] = []
        for language in dict.fromkeys(self.language):
            picked += draw.permutation(self.of(language))[:count].tolist()
        return Texts(
            ids=[self.ids[i] for i in picked],
            text=[self.text[i] for i in picked],
            language=[self.language[i] for i in picked],
            english=[self.english[i] for i in picked],
        )

    def of(self, language: str) -> np.ndarray:
        return np.flatnonzero(np.array(self.language) == language)


def bits_per_byte(nats: np.ndarray, texts: Texts) -> dict[str, float]:
    size = np.array([len(text.encode("utf-8")) for text in texts.text])
    return {
        language: float(nats[at].sum() / np.log(2) / size[at].sum())
        for language in dict.fromkeys(texts.language)
        for at in [texts.of(language)]
    }


def xz_bits_per_byte(texts: Texts) -> dict[str, float]:
    result = {}
    for language in dict.fromkeys(texts.language):
        data = "\n".join(texts.text[i] for i in texts.of(language)).encode("utf-8")
        result[language] = 8 * len(lzma.compress(data, preset=9)) / len(data)
    return result


def share_by_language(scores: Scores, texts: Texts) -> dict[str, np.ndarray]:
    """Language -> (L, E): share of its tokens that choose an expert; a layer sums to experts per token."""
    return {
        language: scores.chosen[at].sum(axis=0) / scores.tokens[at].sum()
        for language in dict.fromkeys(texts.language)
        for at in [texts.of(language)]
    }


def divergence_from_english(scores: Scores, texts: Texts) -> dict[str, list[float]]:
    """Language -> mean over parallel segments of the routing divergence from English, by layer."""
    place = {pair: i for i, pair in enumerate(zip(texts.language, texts.english, strict=True))}
    result = {}
    for language in dict.fromkeys(texts.language):
        pairs = [(i, place["en", english]) for (at, english), i in place.items()
                 if at == language and ("en", english) in place]  # fmt: skip
        one, other = (scores.probability[list(side)] for side in zip(*pairs, strict=True))
        result[language] = routing_divergence(one, other).mean(axis=0).tolist()
    return result


def most_specific(shares: dict[str, np.ndarray], language: str, count: int) -> list[tuple[int, int]]:
    """The (layer, expert) pairs that the language uses most beyond the mean of the other languages."""
    others = np.mean([share for other, share in shares.items() if other != language], axis=0)
    order = np.argsort(-(shares[language] - others), axis=None)[:count]
    return [(int(i) // others.shape[1], int(i) % others.shape[1]) for i in order]
