"""What the documentation names is there, and what is there is named by it."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from moescope.app.shell.shell import PAGES
from moescope.app.text import definitions
from moescope.store import views
from moescope.store.compare import views as compare_views

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FACE = {
    "moescope.tracer": (
        "DeclaredRouter", "PromptSet", "Steering", "find_routers", "learn_vector", "load_model", "record_routing",
        "trace_prompts",
    ),
    "moescope.store": ("RouterSpec", "StoreError", "Trace", "open_trace"),
    "moescope.kernels.counting": (
        "count_experts", "load_imbalance", "co_activation", "transitions", "mutual_information", "jaccard",
        "repeated_assignment",
    ),
    "moescope.kernels.alignment": ("routing_divergence",),
    "moescope.kernels.consistency": ("cache_hit_rate", "segment_cache_hit_rate", "segment_routing_performance"),
    "moescope.kernels.resonance": ("resonance", "risk_difference"),
}  # fmt: skip
"""The public names that notebooks use, of DESIGN.md and MEASURES.md."""


def paths_of(text: str) -> set[tuple[str, str | None]]:
    """(module, name) of all imports in code blocks, and (path, None) of dotted paths in sentences."""
    found: set[tuple[str, str | None]] = set()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moescope"):
                found |= {(node.module or "", alias.name) for alias in node.names}
    sentences = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return found | {
        (path, None) for path in re.findall(r"`(moescope\.(?:app|tracer|store|kernels)(?:\.\w+)*)", sentences)
    }


def resolve(path: str) -> object:
    """The module, or what it holds, at a dotted path."""
    module, names = path, []
    while True:
        try:
            found: object = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            names.insert(0, name)
            if not module:
                raise
    for name in names:
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_the_docs_name_can_be_imported(document):
    for module, name in sorted(paths_of(document.read_text(encoding="utf-8")), key=str):
        resolve(module if name is None else f"{module}.{name}")


@pytest.mark.parametrize("module", FACE)
def test_the_public_names_stay_where_notebooks_find_them(module):
    for name in FACE[module]:
        assert callable(resolve(f"{module}.{name}"))


def test_every_page_has_a_section():
    titles = re.findall(r"^## (.+)$", (ROOT / "docs" / "app.md").read_text(encoding="utf-8"), re.MULTILINE)
    lacking = [screen.title for screen in PAGES if screen.title not in titles]
    assert lacking == [], "each page needs a section in docs/app.md"


def test_every_folder_of_code_is_a_package_of_the_distribution():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        ".".join(["moescope", *path.relative_to(ROOT).parent.parts])
        for package in ("app", "tracer", "store", "kernels")
        for path in (ROOT / package).rglob("*.py")
    }
    pages = {"moescope.app.methods"}  # text for the app, kept in docs
    assert folders | pages == {name for name in listed if not name.startswith("moescope.sample_data")}
    assert len(listed) == len(set(listed))
    for name in sorted(folders - {"moescope.kernels"}):
        assert (ROOT / Path(*name.split(".")[1:]) / "__init__.py").exists(), name


def test_every_kernel_has_its_place_in_the_methods():
    """Every family by its import path, every function that it offers by its name, and every module of a family by
    its path or by a function of its own."""
    methods = "".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "methods").glob("*.md"))
    )
    tools = {"compiled"}  # serve kernels, and measure nothing
    parts = {
        "sequences",
        "stack",
        "token_overlap",
        "contrast",
        "exchange",
        "permutation_test",
        "percentiles",
        "result",
    }
    missing = []
    for path in sorted((ROOT / "kernels").glob("*/[!_]*.py")):
        functions = [one.name for one in ast.parse(path.read_text(encoding="utf-8")).body
                     if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]  # fmt: skip
        named = any(
            f"`{one}" in methods for one in (*functions, f"moescope.kernels.{path.parent.name}.{path.stem}")
        )
        missing += (
            [f"{path.parent.name}.{path.stem}"] if functions and not named and path.stem not in parts else []
        )
    for path in sorted((ROOT / "kernels").iterdir()):
        name = path.stem
        if name.startswith(("_", ".")) or name in tools or not (path.is_dir() or path.suffix == ".py"):
            continue
        if not re.search(rf"`moescope\.kernels\.{name}\b", methods):
            missing.append(name)
        offered = getattr(importlib.import_module(f"moescope.kernels.{name}"), "__all__", [])
        missing += [f"{name}.{one}" for one in offered if one.islower() and f"`{one}" not in methods]
    assert missing == [], "each needs a section in docs/methods/"


def test_figures_find_their_definitions_in_the_methods():
    """Every figure of a view that a page draws has its definition, and no definition is of a view that is gone."""
    known = {*views.names(), *compare_views.names()}
    assert set(definitions.OF_VIEW) <= known
    assert all(definitions.of_view(name) for name in definitions.OF_VIEW)
    screens = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "app" / "screens").rglob("*.py"))
    drawn = {name for name in known if f'"{name}"' in screens}
    plain = {
        "expert-contexts",
        "prompt-tokens",
        "token-contexts",
        "contrast-prompts",
        "model-card",
        "response-classes",
    }
    lacking = drawn - set(definitions.OF_VIEW) - plain  # texts and lists, no measures
    assert not lacking, "a view that a page draws needs its definition in OF_VIEW of app/text/definitions.py"
    assert plain <= drawn
    for call in definitions.OF_CALL:
        assert f"{call}(" in screens, call
        assert definitions.of_snippet(f"table = {call}(x)")
    assert "KL(p ‖ q) = Σ p ln(p / q)" in definitions.of_snippet(
        "with_controls(evaluation.effects('language'))"
    )
    assert definitions.of_place("agreement:chance overlap").startswith("**chance overlap**: k_a · k_b / (E")


GUIDES = ["ARCHITECTURE.md", "CONTRIBUTING.md"]


def files_named_in(paragraph: str) -> list[str]:
    """Paths from the root; a bare `name.py` lies in a folder that an earlier path of the paragraph named."""
    folders, found = ["."], []
    for name in re.findall(r"`([\w./-]+)`", paragraph.replace("`__init__.py`", "")):
        if name.startswith(".") or not re.search(r"\.(py|md|toml|js)$|\w/$", name):
            continue
        at = [folder for folder in folders if (ROOT / folder / name).exists()]
        found.append(f"{at[-1]}/{name}" if at else f"no {name}, looked in {', '.join(folders)}")
        folders += [str(Path(name) if name.endswith("/") else Path(name).parent)] if "/" in name else []
    return found


@pytest.mark.parametrize("guide", GUIDES)
def test_every_file_that_a_guide_names_is_there(guide):
    text = re.sub(r"```.*?```", "", (ROOT / guide).read_text(encoding="utf-8"), flags=re.DOTALL)
    found = [name for part in re.split(r"\n(?=\n|- |\d\. |\|)", text) for name in files_named_in(part)]
    assert len(found) > 20
    assert [name for name in found if name.startswith("no ")] == [], f"{guide} names a file that is gone"


def test_the_tree_of_the_architecture_has_every_folder():
    tree = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## The tree", 1)[1].split("```")[1]
    for package in ("app", "tracer", "store"):
        told = set(re.findall(r"(\w+)/ ", tree.split(f"{package}/ ", 1)[1].split("\n\n")[0]))
        folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert folders - told == set(), f"ARCHITECTURE.md, The tree: {package}/ lacks folders"
    kernels = {
        path.stem for path in (ROOT / "kernels").iterdir() if path.stem[0] not in "._" and path.stem != "py"
    }
    named = set(re.findall(r"\w+", tree.split("kernels/", 1)[1]))
    assert kernels - named - {"compiled"} == set(), "ARCHITECTURE.md, The tree: kernels/ lacks families"
