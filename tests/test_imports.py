"""Imports go one way, app → tracer → store → kernels, and light things stay light to import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("kernels", "store", "tracer", "app")
SCRIPTS = {"app/main.py"}
"""Streamlit runs it as a script, which has no package to import relatively from."""
GALLERY = "sample_data"
"""Beside the four packages: scripts that use what users use. Only the app knows that there is a gallery."""
MODULES = [path for package in ORDER for path in sorted((ROOT / package).rglob("*.py"))]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of a module, also inside functions: its line, and the absolute name of what it imports."""
    package = ["moescope", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield node.lineno, ".".join([*base, *([node.module] if node.module else [])])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_upwards(path):
    own = path.relative_to(ROOT).parts[0]
    allowed = [*ORDER[: ORDER.index(own) + 1], *([GALLERY] if own == "app" else [])]
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] == "moescope" and len(parts) > 1:
            assert parts[1] in allowed, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_the_gallery_knows_nothing_of_the_app():
    for path in sorted((ROOT / GALLERY / "gallery").rglob("*.py")):
        for line, name in imported(path):
            parts = name.split(".")
            if parts[0] == "moescope":
                known = parts[1] in ("tracer", "store", "kernels") or parts[1:3] == [GALLERY, "gallery"]
                assert known, f"{path.relative_to(ROOT)}:{line} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_each_other_relatively(path):
    absolute = [
        node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom) and not node.level
    ]
    names = {(node.module or "").split(".")[0] for node in absolute}
    if str(path.relative_to(ROOT)) in SCRIPTS:
        names.discard("moescope")
    assert not names & {"moescope", *ORDER}, f"{path.relative_to(ROOT)} imports {sorted(names)} absolutely"


@cache
def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["moescope", *(parts[:-1] if parts[-1] == "__init__" else parts)])


@cache
def modules_imported(path: Path) -> set[str]:
    """Our modules that a module imports, also inside functions and for types only."""
    package = ["moescope", *path.relative_to(ROOT).parent.parts]
    known = {name_of(other) for other in MODULES}
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` imports the module, not what the package offers.
            found |= {inner if (inner := f"{module}.{name.name}") in known else module for name in node.names}
    return (found & known) - {name_of(path)}


def circles(imports: dict[str, set[str]]) -> list[str]:
    """The modules that are left when those which import nothing that is left are taken away, again and again."""
    left = dict(imports)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_module_imports_itself_on_a_detour():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert not circles({name_of(path): modules_imported(path) for path in MODULES})


def folder_of(module: str) -> str:
    """`tracer.hooks` of moescope.tracer.hooks.taps; a package is its own folder."""
    parts = module.split(".")[1:]
    return ".".join(parts if ROOT.joinpath(*parts).is_dir() else parts[:-1])


def test_of_two_folders_one_stands_above_the_other():
    """A folder and one inside it may need each other: the outer one is the face of the inner."""
    arrows = {
        (folder_of(name_of(path)), folder_of(other)) for path in MODULES for other in modules_imported(path)
    }
    both = {(a, b) for a, b in arrows if (b, a) in arrows and a < b and "." in a and "." in b}
    assert not sorted((a, b) for a, b in both if not b.startswith(f"{a}."))


def test_the_server_stands_above_what_it_serves():
    """Only the client knows it: it starts one and speaks to it."""
    for path in MODULES:
        parts = path.relative_to(ROOT).parts
        if parts[0] == "tracer" and parts[1] not in ("serve", "client"):
            served = sorted(
                name for name in modules_imported(path) if name.startswith("moescope.tracer.serve")
            )
            assert not served, f"{'/'.join(parts)} imports {served}"


def test_every_module_of_kernels_and_store_draws_nothing_and_runs_no_model():
    heavy = {"streamlit", "altair", "plotly", "transformers"}
    for path in MODULES:
        package = path.relative_to(ROOT).parts[0]
        names = {name.split(".")[0] for _, name in imported(path)}
        if package in ("kernels", "store"):
            assert not names & heavy, f"{path.relative_to(ROOT)} imports {sorted(names & heavy)}"
        if package == "tracer":
            drawing = names & {"streamlit", "altair", "plotly"}
            assert not drawing, f"{path.relative_to(ROOT)} imports {sorted(drawing)}"


def test_neither_kernels_nor_the_root_is_a_package():
    """With a PyPI package called `kernels` installed, ours would be found first from the root, and
    `import transformers` would fail."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize(
    "name",
    [
        "moescope.store",
        "moescope.tracer",
        "moescope.tracer.prompts.prompt_set",
        "moescope.tracer.evaluate.saved",
        "moescope.app.cli.commands",
        "moescope.sample_data.gallery",
    ],
)
def test_looking_at_a_trace_loads_no_model_library(name):
    heavy = ("torch", "transformers", "streamlit")
    program = f"import sys, {name}; print(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_first_page_and_a_view_import_nothing_that_they_do_not_use():
    program = (
        "import sys, moescope.app.shell.shell, moescope.app.screens.library.page; "
        "from moescope.store.views import registry; registry.get('explained'); "
        "names = ('torch', 'scipy', 'moescope.app.cli', 'moescope.store.views.structure.explained', "
        "'moescope.store.views.deploy.placement'); print(*[name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["moescope.store.views.structure.explained"]
