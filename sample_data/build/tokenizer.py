"""Byte-level BPE tokenizer of the sample model, trained on the training segments only.

Every language gives the same number of UTF-8 bytes to the training text, so that no script is spelled out
byte by byte. Writes WORK/tokenizer (a transformers tokenizer) and WORK/tokens.npz: for each split the
tokens of all segments on end, each after <|endoftext|>, with offsets and the row in corpus.parquet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from recipe import END_OF_TEXT, Recipe, arguments, recipe_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast


def byte_lengths(texts: Iterable[str]) -> np.ndarray:
    return np.array([len(text.encode("utf-8")) for text in texts])


def balanced_texts(corpus: pd.DataFrame, seed: int) -> Iterator[str]:
    """Training segments in random order, the same number of bytes from every language."""
    shuffled = corpus.loc[~corpus["held_out"]].sample(frac=1, random_state=seed)
    shuffled["running"] = byte_lengths(shuffled["text"])
    shuffled["running"] = shuffled.groupby("language")["running"].cumsum()
    limit = min(group["running"].iloc[-1] for _, group in shuffled.groupby("language"))
    yield from shuffled["text"].to_numpy()[shuffled["running"].to_numpy() <= limit]


def train_tokenizer(corpus: pd.DataFrame, recipe: Recipe) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.model.vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(balanced_texts(corpus, recipe.seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=recipe.model.positions,
    )


def encode(tokenizer: PreTrainedTokenizerFast, corpus: pd.DataFrame) -> dict[str, np.ndarray]:
    """Arrays train_ids, train_starts (N+1), train_rows (N), and the same for held_out."""
    arrays = {}
    for split, rows in {"train": corpus[~corpus["held_out"]], "held_out": corpus[corpus["held_out"]]}.items():
        encoded = tokenizer(rows["text"].tolist(), add_special_tokens=False)["input_ids"]
        start_id = tokenizer.bos_token_id
        lengths = np.array([1 + len(ids) for ids in encoded])
        arrays[f"{split}_ids"] = np.array([i for ids in encoded for i in (start_id, *ids)], dtype=np.uint16)
        arrays[f"{split}_starts"] = np.concatenate([[0], np.cumsum(lengths)])
        arrays[f"{split}_rows"] = rows.index.to_numpy()
    return arrays


def load_tokenizer(work: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(work / "tokenizer")


def main() -> None:
    options = arguments(__doc__).parse_args()
    recipe = recipe_of(options)
    corpus = pd.read_parquet(options.work / "corpus.parquet")
    train_tokenizer(corpus, recipe).save_pretrained(options.work / "tokenizer")
    tokenizer = load_tokenizer(options.work)
    arrays = encode(tokenizer, corpus)
    np.savez(options.work / "tokens.npz", allow_pickle=False, **arrays)
    print(f"vocabulary {len(tokenizer)}, {len(arrays['train_ids']):,} training tokens")
    for language, rows in corpus.loc[~corpus["held_out"]].groupby("language", sort=False):
        chosen = np.isin(arrays["train_rows"], rows.index)
        tokens = (np.diff(arrays["train_starts"]) - 1)[chosen].sum()
        size = byte_lengths(rows["text"]).sum()
        print(f"{language}: {tokens:,} tokens, {size / tokens:.2f} bytes a token")


if __name__ == "__main__":
    main()
