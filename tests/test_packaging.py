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
def wheel_names(tmp_path_factory) -> set[str]:
    # A copy, because setuptools builds in the tree and would pick up what an earlier build left there.
    source, out = tmp_path_factory.mktemp("source") / "moescope", tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "tests", "benchmarks", "docs")
    shutil.copytree(ROOT, source, ignore=skip)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = out.glob("*.whl")
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


def test_the_sample_travels_with_the_wheel(wheel_names):
    assert "moescope/sample_data/model/model.safetensors" in wheel_names
    assert "moescope/sample_data/udhr.csv" in wheel_names
    assert "moescope/app/methods/alignment.md" in wheel_names  # definitions that pages show
    assert "moescope/sample_data/trace/trace.json" in wheel_names
    assert "moescope/sample_data/gallery/two_streams.py" in wheel_names
    assert "moescope/sample_data/gallery/thumbnails/two_streams-dark.png" in wheel_names
    assert not any(name.startswith("moescope/sample_data/build") for name in wheel_names)
