"""The distribution holds every module, and adds nothing but `moescope/` to site-packages."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("app", "tracer", "store", "kernels")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # A copy, because setuptools builds in the tree and would pick up what an earlier build left there.
    source, out = tmp_path_factory.mktemp("source") / "moescope", tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "tests", "benchmarks", "img", "studies")
    shutil.copytree(ROOT, source, ignore=skip)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def wheel_names(wheel) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_every_module_and_marker_is_in_the_wheel(wheel_names):
    sources = {
        f"moescope/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert sources - wheel_names == set()


def test_nothing_but_moescope_is_installed(wheel_names):
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"moescope"}


def test_moescope_stays_a_namespace_and_kernels_without_init(wheel_names):
    assert "moescope/__init__.py" not in wheel_names
    assert "moescope/kernels/__init__.py" not in wheel_names


def test_an_app_from_the_wheel_shows_the_definitions_of_docs(wheel, tmp_path):
    """Links are not needed: what the wheel holds is unpacked alone, and finds the words of docs/methods."""
    archive = zipfile.ZipFile(wheel)
    archive.extractall(
        tmp_path,
        [name for name in archive.namelist() if name.startswith(("moescope/app/text/", "moescope/app/meth"))],
    )
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import definitions as d; "
        "print(d.METHODS); print(all(map(d.of_view, d.OF_VIEW)) and d.of_snippet('evaluation.effects()') != '')"
    )
    command = [sys.executable, "-I", "-c", script, str(tmp_path / "moescope/app/text")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said == [str(tmp_path / "moescope/app/methods"), "True"]
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        assert (tmp_path / "moescope/app/methods" / page.name).read_bytes() == page.read_bytes()


def test_the_sample_travels_with_the_wheel(wheel_names):
    assert "moescope/sample_data/model/model.safetensors" in wheel_names
    assert "moescope/sample_data/udhr.csv" in wheel_names
    assert "moescope/sample_data/trace/trace.json" in wheel_names
    assert "moescope/sample_data/gallery/two_streams.py" in wheel_names
    assert "moescope/sample_data/gallery/thumbnails/two_streams-dark.png" in wheel_names
    assert not any(name.startswith("moescope/sample_data/build") for name in wheel_names)
