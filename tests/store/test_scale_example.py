"""The example of docs/scale.md counts what the view `load` shows.

Runs where `MOESCOPE_DAFT` names a Python with Daft in it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from moescope.store import open_trace
from moescope.store.arrow import pc

PYTHON = os.environ.get("MOESCOPE_DAFT", "")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "scale.md"


@pytest.mark.skipif(not PYTHON, reason="MOESCOPE_DAFT names no Python with Daft")
def test_daft_counts_what_load_shows(shared_trace_path: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(import json\n.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "load.py").write_text(example)
    command = [PYTHON, str(tmp_path / "load.py"), str(shared_trace_path), str(tmp_path / "load")]
    done = subprocess.run(command, env=os.environ | {"DAFT_ANALYTICS_ENABLED": "0"})
    # Daft 0.7.26 may crash as its process ends, after it has written everything.
    assert done.returncode in (0, -signal.SIGSEGV)
    found = pq.read_table(tmp_path / "load")
    view = open_trace(shared_trace_path).view("load")
    view = view.filter(pc.greater(view["count"], 0))
    for name in ("layer", "stream", "expert", "tokens", "count", "share"):
        assert found[name].to_pylist() == view[name].to_pylist(), name
