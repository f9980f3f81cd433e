"""Files that are written whole or not at all, and what a full disk leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moescope.store import export, list_traces, open_trace
from moescope.store.errors import StoreError
from moescope.store.export import export_trace
from moescope.store.files.whole import write_whole
from moescope.store.importers import build
from moescope.store.write.synthetic import Synthetic, write_synthetic

SMALL = Synthetic(prompts=4, tokens_per_prompt=8, layers=2, experts=6, top_k=2)
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
from moescope.app.cli import main
sys.exit(main())
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_whole_files(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    write_whole(path, "ä")
    path.chmod(0o640)
    link.symlink_to(path)
    write_whole(link, b"new")
    assert path.read_bytes() == b"new"
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    write_whole("/dev/null", b"gone")
    with pytest.raises(OSError, match="nowhere"):
        write_whole(tmp_path / "nowhere" / "b", b"x")
    assert names(tmp_path) == {"a", "link"}


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="files cannot be limited here")
@pytest.mark.parametrize("name", ["load.csv", "load.json", "load.parquet"])
def test_a_table_that_does_not_fit_leaves_the_old_one(tmp_path: Path, name: str) -> None:
    write_synthetic(tmp_path / "t", SMALL)
    out = tmp_path / name
    out.write_text("old")
    words = [sys.executable, "-c", LIMITED, "view", str(tmp_path / "t"), "load", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "the file is larger" in done.stderr or "too large" in done.stderr.lower(), done.stderr
    assert out.read_text() == "old"
    assert names(tmp_path) == {"t", name}


def test_a_failed_duckdb_export_leaves_nothing_beside_it(tmp_path: Path, monkeypatch) -> None:
    write_synthetic(tmp_path / "t", SMALL)

    def full(trace, path: Path, *rest) -> None:
        for name in (path, path.with_name(path.name + ".wal")):
            name.write_bytes(b"half")
        path.with_name(path.name + ".tmp").mkdir()
        raise StoreError("the disk is full")

    monkeypatch.setattr(export, "_duckdb", full)
    with pytest.raises(StoreError, match="full"):
        export_trace(open_trace(tmp_path / "t"), tmp_path / "out.duckdb", "duckdb")
    assert names(tmp_path) == {"t"}


def test_copies_of_a_killed_import_are_not_listed_and_the_next_import_removes_them(tmp_path: Path) -> None:
    left, new, other = (tmp_path / f".{name}" for name in ("a.importing-1", "a.importing-2", "b.importing-3"))
    for folder in (left, new, other):
        write_synthetic(folder, SMALL)
    old = time.time() - 2 * build.LEFT_SECONDS
    for folder in (left, other):
        os.utime(folder / "trace.json", (old, old))
    assert [found.name for found in list_traces(tmp_path) if not found.sample] == []
    build._temporary(tmp_path / "a")
    assert names(tmp_path) == {new.name, other.name}
