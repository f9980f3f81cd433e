"""Parallel help texts in 12 languages, from Debian's libreoffice-help packages (MPL-2.0).

1. Each package is a tree of HTML pages whose paragraphs carry the same id in every language:
   a segment's key is page + id.
2. A segment that was never translated (it equals its English) is dropped, and so is one that still reads
   as English; what is left is deduplicated per language.
3. The held-out split goes by the English string, never by key: strings repeat across pages. A training
   segment whose own text also occurs as a held-out translation is dropped as well.

Writes WORK/corpus.parquet: key, language, text, english, held_out.
"""

from __future__ import annotations

import hashlib
import html
import random
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from recipe import HELP_PACKAGES, Recipe, arguments, recipe_of

SEGMENT = re.compile(r'<(p|h[1-6])\b[^>]*?\bid="((?:par|hd)_[^"]+)"[^>]*>(.*?)</\1>', re.DOTALL)
LEAF_SPAN = re.compile(r"<span\b([^>]*)>((?:(?!</?span\b).)*)</span>", re.DOTALL)
OTHER_PLATFORM = re.compile(r'hidden="true".*class="[A-Z]')
TAG = re.compile(r"<[^>]+>")
ENGLISH_WORDS = re.compile(
    r"\b(the|of|is|are|to|and|this|you|for|with|that|which|can|be|by|from|your|it|if|as)\b", re.IGNORECASE
)
NATIVE_LETTERS = {
    "ru": re.compile(r"[Ѐ-ӿ]"), "el": re.compile(r"[Ͱ-Ͽἀ-῿]"), "ko": re.compile(r"[가-힣]"),
    "zh": re.compile(r"[一-鿿]"), "ja": re.compile(r"[぀-ヿ一-鿿]"),
}  # fmt: skip


def plain_text(markup: str) -> str:
    """The words of a paragraph as a reader on Linux sees them: variants for other systems are hidden."""
    while (flat := LEAF_SPAN.sub(lambda m: "" if OTHER_PLATFORM.search(m[1]) else m[2], markup)) != markup:
        markup = flat
    return " ".join(html.unescape(TAG.sub("", markup)).split())


def page_segments(page: str, markup: str) -> Iterator[tuple[str, str]]:
    for match in SEGMENT.finditer(markup):
        if text := plain_text(match[3]):
            yield f"{page}#{match[2]}", text


def package_pages(language: str, work: Path) -> Iterator[tuple[str, str]]:
    """(page, HTML) of one language's package, read straight from the .deb; fetched by apt when absent."""
    suffix = HELP_PACKAGES[language]
    folder = work / "packages"
    folder.mkdir(exist_ok=True)
    if not list(folder.glob(f"libreoffice-help-{suffix}_*.deb")):
        subprocess.run(["apt-get", "download", f"libreoffice-help-{suffix}"], cwd=folder, check=True)
    package = max(folder.glob(f"libreoffice-help-{suffix}_*.deb"))
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpack,
        tarfile.open(fileobj=unpack.stdout, mode="r|") as tar,
    ):
        for member in tar:
            _, found, page = member.name.partition("/text/")
            if found and page.endswith(".html") and (file := tar.extractfile(member)):
                yield page, file.read().decode("utf-8")


def toy_pages(language: str) -> Iterator[tuple[str, str]]:
    """A made-up help with the quirks of the real one: repeats, nested spans, untranslated paragraphs."""
    letters = {"en": "abcdefghij", "ru": "абвгдежзик", "ja": "あいうえおかきくけこ"}[language]
    lead = {"en": "Choose", "ru": "Выберите", "ja": "選択"}[language]
    draw = random.Random(0)
    words = ["".join(draw.choice("0123456789") for _ in range(draw.randint(2, 6))) for _ in range(60)]
    for page in range(30):
        lines = []
        for number in range(20):
            sentence = " ".join(draw.choice(words) for _ in range(draw.randint(4, 12)))
            sentence = "00 11 22" if number == 0 else sentence
            spelled = sentence.translate(str.maketrans("0123456789", letters))
            spelled = "Choose <b>File</b>" if number == 1 else f"{lead} {spelled}" if number % 3 else spelled
            hidden = '<span class="s"><span hidden="true" id="m" class="MAC"><i>Cmd</i></span></span>'
            lines.append(f'<p id="par_id{number}" class="paragraph">{spelled}{hidden}.</p>')
        yield f"toy/{page}.html", "\n".join(lines)


def reads_as_english(text: str, language: str) -> bool:
    """True for paragraphs that are English though they differ from today's English wording."""
    words = len(text.split())
    english = len(ENGLISH_WORDS.findall(text))
    native = NATIVE_LETTERS.get(language)
    if native is not None:
        return not native.search(text) and words >= 3
    return english >= 2 and english >= 0.2 * words


def is_held_out(english: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(english.encode()).digest()[:8], "big") < share * 2**64


def collect(recipe: Recipe, work: Path, mini: bool) -> pd.DataFrame:
    """All usable segments, one row for each distinct text of a language."""
    english_of: dict[str, str] = {}
    rows = []
    for language in recipe.languages:
        pages = toy_pages(language) if mini else package_pages(language, work)
        segments = [pair for page, markup in pages for pair in page_segments(page, markup)]
        if language == "en":
            english_of = dict(segments)
        kept = [(key, text) for key, text in segments if key in english_of and any(map(str.isalpha, text))]
        if language != "en":
            same = sum(text == english_of[key] for key, text in kept)
            translated = [(k, t) for k, t in kept if t != english_of[k]]
            kept = [(k, t) for k, t in translated if not reads_as_english(t, language)]
            print(f"{language}: {len(translated) + same} segments, {same} equal to English, "
                  f"{len(translated) - len(kept)} more read as English")  # fmt: skip
        rows += [(key, language, text, english_of[key]) for key, text in kept]
    return pd.DataFrame(rows, columns=["key", "language", "text", "english"])


def split(segments: pd.DataFrame, share: float) -> pd.DataFrame:
    """Marks the held-out rows, removes training rows that repeat a held-out text, deduplicates texts."""
    held_out = np.array([is_held_out(english, share) for english in segments["english"]])
    where = pd.MultiIndex.from_arrays([segments["language"], segments["text"]])
    leaks = where.isin(where[held_out]) & ~held_out
    kept = segments.assign(held_out=held_out).loc[~leaks & ~where.duplicated()]
    return kept.reset_index(drop=True)


def main() -> None:
    parser = arguments(__doc__)
    options = parser.parse_args()
    recipe = recipe_of(options)
    corpus = split(collect(recipe, options.work, options.mini), recipe.held_out_share)
    corpus.to_parquet(options.work / "corpus.parquet", index=False)
    size = corpus.assign(megabytes=corpus["text"].str.encode("utf-8").str.len() / 1e6)
    table = size.groupby(["language", "held_out"], sort=False)["megabytes"].agg(["count", "sum"])
    print(table.unstack().round(2).to_string())


if __name__ == "__main__":
    main()
