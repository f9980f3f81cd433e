"""Libraries list what opens and what does not; importing the store costs little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moescope.store import default_library, list_traces, sample_dir, trace_address
from moescope.store.write.synthetic import Synthetic, write_synthetic


def test_a_library_with_a_good_a_damaged_and_no_trace(tmp_path: Path) -> None:
    plan = Synthetic(
        prompts=8, tokens_per_prompt=6, layers=2, experts=6, top_k=2, part_tokens=20, languages=2
    )
    write_synthetic(tmp_path / "b-good", plan)
    write_synthetic(tmp_path / "c-hurt", plan)
    (tmp_path / "c-hurt" / "tokens" / "part-00000.parquet").unlink()
    (tmp_path / "a-broken").mkdir()
    (tmp_path / "a-broken" / "trace.json").write_text("{")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").write_text("x")
    found = [summary for summary in list_traces(tmp_path) if not summary.sample]
    assert [summary.name for summary in found] == ["a-broken", "b-good", "c-hurt"]
    broken, good, hurt = found
    assert "not valid JSON" in (broken.error or "")
    assert good.error is None
    assert (good.state, good.model, good.prompts, good.layers, good.experts, good.top_k) == (
        "complete",
        "synthetic",
        8,
        2,
        6,
        2,
    )
    assert good.languages == {"en": 4, "de": 4}
    assert good.bytes == sum(p.stat().st_size for p in (tmp_path / "b-good").rglob("*.parquet"))
    assert good.problems == []
    assert "tokens/part-00000.parquet" in hurt.problems[0]


def test_where_libraries_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(tmp_path / "mine"))
    assert default_library() == tmp_path / "mine"
    assert [s for s in list_traces() if not s.sample] == []
    assert trace_address("sample") == str(sample_dir() / "trace")
    (tmp_path / "mine" / "sample").mkdir(parents=True)
    (tmp_path / "mine" / "sample" / "trace.json").write_text("{}")
    assert trace_address("sample") == str(tmp_path / "mine" / "sample")
    assert [trace_address(name) for name in ("none", "a/sample")] == ["none", "a/sample"]
    monkeypatch.delenv("MOESCOPE_LIBRARY")
    assert default_library().parts[-2:] == ("moescope", "traces")
    assert sample_dir().name == "sample_data"


def test_importing_the_store_imports_no_model_library() -> None:
    code = (
        "import sys, moescope.store, moescope.store.views, moescope.store.importers, moescope.store.sql.query\n"
        "moescope.store.views.names()\n"
        "print(sorted({'torch', 'transformers', 'streamlit', 'duckdb', 'pandas', 'fsspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
