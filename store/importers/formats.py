"""The import formats that there are: the command line, the docs and the fuzz tests read this table.

A format is a function `(path, out, *, options...) -> Imported` in a module of its own, and a row here.
Nothing heavy is imported until a format is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import ImportRefused

if TYPE_CHECKING:
    from .build import Imported


@dataclass(frozen=True)
class Format:
    """One row of the table."""

    module: str
    """Module of this package that holds the function `import_<name>`."""
    suffixes: tuple[str, ...]
    """Files that it reads; a fuzz test feeds it damaged ones of each."""
    summary: str
    """What such a file is, for help texts and docs."""


FORMATS: Mapping[str, Format] = {
    "neutral": Format(
        ".neutral",
        (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"),
        "one row for each token and layer, with its experts",
    ),
    "vllm": Format(
        ".vllm",
        (".json", ".jsonl", ".ndjson", ".parquet", ".npz"),
        "requests of vLLM, or the answers of its server",
    ),
    "sglang": Format(
        ".sglang",
        (".pt", ".json", ".jsonl", ".ndjson"),
        "SGLang's expert recorder, or the answers of its server",
    ),
    "counts": Format(
        ".counts",
        (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".npz", ".pt", ".gguf"),
        "how often each expert was chosen: tables, arrays, llama.cpp's imatrix",
    ),
    "tensors": Format(
        ".tensors",
        (".safetensors",),
        "ids, weights and sequence lengths as tensors: the way out of your own code",
    ),
}

OPTIONS: Mapping[str, str] = {
    "experts": "Number of experts of every router. Default: the largest id + 1.",
    "layers": "Layer numbers of the MoE layers. Default: 0, 1, 2, ...",
    "top_k": "Experts per token: needed for counts without token numbers and for SGLang's answers.",
    "num_layers": "Layers of the arrays in SGLang's answers.",
    "labels": "A column of the sequences and its values in their order: language=en,de. Repeat for others.",
    "token_text": "Model whose tokenizer turns token ids into text.",
}
"""What an option says, whichever formats take it."""


def function(name: str) -> Callable[..., Imported]:
    """The importer of a format. Raises ImportRefused for an unknown one."""
    if name not in FORMATS:
        raise ImportRefused(f"there is no import format {name!r}; there are: {', '.join(FORMATS)}")
    return getattr(import_module(FORMATS[name].module, __package__), f"import_{name}")


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """Options of a format by name. Raises ImportRefused for an unknown format."""
    signature = inspect.signature(function(name), eval_str=True)
    return {key: value for key, value in signature.parameters.items() if key not in ("path", "out")}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises ImportRefused for an option that the format does not take."""
    unknown = sorted(set(options) - set(parameters(name)))
    if unknown:
        raise ImportRefused(f"format {name} has no option {unknown[0]!r}")
