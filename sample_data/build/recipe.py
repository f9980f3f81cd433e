"""Every number that decides what the sample model is; the scripts beside this file only carry it out."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

SAMPLE_DATA = Path(__file__).resolve().parent.parent
END_OF_TEXT = "<|endoftext|>"

HELP_PACKAGES = {
    "en": "en-us", "de": "de", "fr": "fr", "es": "es", "it": "it", "pt": "pt",
    "ru": "ru", "zh": "zh-cn", "ja": "ja", "ko": "ko", "tr": "tr", "el": "el",
}  # fmt: skip
"""BCP 47 language -> suffix of Debian's libreoffice-help package; English, the pivot, comes first."""


@dataclass(frozen=True)
class ModelShape:
    layers: int = 8
    experts: int = 32
    experts_per_token: int = 4
    hidden: int = 192
    expert_width: int = 64
    heads: int = 6
    vocabulary: int = 8192
    positions: int = 1024


@dataclass(frozen=True)
class Training:
    steps: int = 1850
    batch_tokens: int = 4096
    """Rows are cut from one shuffled stream, so every batch mixes the languages."""
    row_tokens: int = 128
    late_row_tokens: int = 512
    """Length of a row while the rate falls: long prompts are met once, where it is cheap."""
    optimizer: str = "muon"
    """`muon`: matrices by Muon, the rest by AdamW; `adamw`: everything by AdamW."""
    matrix_rate: float = 0.03
    vector_rate: float = 5e-3
    weight_decay: float = 0.01
    warmup: float = 0.01
    """Share of the steps in which the learning rate rises."""
    decay: float = 0.3
    """Share of the steps, at the end, in which it falls linearly to 0."""
    balance: float = 0.05
    """Weight of the Switch load-balancing loss, computed in each layer and averaged over layers."""
    late_balance: float = 0.25
    """Its weight after `late_balance_from`: with 0.05 alone four experts of layer 0 were dying."""
    late_balance_from: float = 0.505
    """Share of the steps."""
    router_z: float = 1e-3
    checkpoint_minutes: float = 5.0


@dataclass(frozen=True)
class Recipe:
    languages: tuple[str, ...] = tuple(HELP_PACKAGES)
    held_out_share: float = 0.04
    seed: int = 20240607
    removed_experts: int = 10
    """How many experts the evaluation switches off at once."""
    model: ModelShape = field(default_factory=ModelShape)
    training: Training = field(default_factory=Training)


FULL = Recipe()
MINI = Recipe(
    languages=("en", "ru", "ja"),
    held_out_share=0.15,
    removed_experts=2,
    model=ModelShape(layers=2, experts=4, experts_per_token=2, hidden=32, expert_width=16, heads=2,
                     vocabulary=400, positions=128),
    training=replace(Training(), steps=40, batch_tokens=128, row_tokens=32, late_row_tokens=64),
)  # fmt: skip


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The two options that every script of this folder has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=SAMPLE_DATA / "build" / "work", metavar="DIR",
                        help="downloads, corpus, tokenizer, checkpoints (default: %(default)s)")  # fmt: skip
    parser.add_argument("--mini", action="store_true", help="a toy of a few seconds: no download, no .deb")
    return parser


def recipe_of(options: argparse.Namespace) -> Recipe:
    options.work.mkdir(parents=True, exist_ok=True)
    return MINI if options.mini else FULL
