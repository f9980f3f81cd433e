"""The build scripts as modules, and everything that their miniature makes from nothing."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BUILD = Path(__file__).parents[2] / "sample_data" / "build"
MODULES = ("recipe", "corpus", "tokenizer", "fast_experts", "muon", "stream", "losses", "train", "scoring",
           "measures", "evaluate", "prompts", "readme", "record_trace")  # fmt: skip


@pytest.fixture(scope="session")
def build():
    """The scripts as modules; they import one another by bare name, as when run from their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BUILD)
        modules = {name: importlib.import_module(name) for name in MODULES}
    yield SimpleNamespace(**modules)
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def made(build, tmp_path_factory):
    """Everything the miniature build writes, made by the commands that the README names."""
    work = tmp_path_factory.mktemp("sample")
    steps = {"corpus": [], "tokenizer": [], "train": ["--threads", "1"], "prompts": ["--out", str(work)],
             "evaluate": ["--count", "20", "--out", str(work / "evaluation.json")]}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, more in steps.items():
            patch.setattr(sys, "argv", [name, "--mini", "--work", str(work), *more])
            getattr(build, name).main()
    return work
