"""A PyPI package that is itself called `kernels`, which transformers imports, and our folder of that name.

The test installs a stand-in distribution of a version that transformers accepts, and runs moescope from the
repository's root, where our `kernels/` lies first on the path.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What transformers takes from it: decorators that leave a class alone, and names that are never called here.
STAND_IN = """
class Anything:
    def __init__(self, *args, **kwargs): pass

def use_kernel_forward_from_hub(name): return lambda cls: cls
def use_kernelized_func(*names): return lambda cls: cls

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Anything
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment in which a distribution `kernels` is installed."""
    from transformers.utils.import_utils import KERNELS_MIN_VERSION

    site = tmp_path_factory.mktemp("site")
    for module in ("", "layer", "layer/mode"):
        path = site / "kernels" / module / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STAND_IN)
    info = site / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n")
    (info / "RECORD").write_text("kernels/__init__.py,,\n")
    return {**os.environ, "PYTHONPATH": str(site), "KERNELS_SITE": str(site)}


def run(environment, *command):
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_transformers_finds_the_installed_package_from_the_root(environment):
    program = """
import os, sys
sys.path.insert(0, os.getcwd())
import transformers, kernels
from transformers.utils.import_utils import is_kernels_available
assert is_kernels_available()
assert kernels.__file__.startswith(os.environ["KERNELS_SITE"]), kernels.__file__
from transformers import OlmoeForCausalLM
import moescope.kernels.counting
print("fine")
"""
    assert run(environment, "-c", program).strip() == "fine"


def test_a_trace_runs_from_the_root_by_python_m(environment, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("id,text\na,Where is the library?\n")
    model = ROOT / "sample_data" / "model"
    out = tmp_path / "trace"
    run(environment, "-m", "moescope.app", "trace", str(model), str(prompts), "--out", str(out))
    from moescope.store import open_trace

    assert open_trace(out).state == "complete"
