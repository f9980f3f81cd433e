"""Traces that the store tests share; small, and made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moescope.store import Trace, open_trace
from moescope.store.write.synthetic import Synthetic, write_synthetic

PLAN = Synthetic(prompts=48, tokens_per_prompt=20, layers=3, experts=12, top_k=3, part_tokens=250, seed=7)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """These tests outlive no power cut; what survives a kill is tested in processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moescope.store.files.folder.os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def shared_trace_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete trace of several parts; nobody may change it."""
    path = tmp_path_factory.mktemp("store") / "shared"
    write_synthetic(path, PLAN)
    return path


@pytest.fixture
def shared_trace(shared_trace_path: Path) -> Trace:
    return open_trace(shared_trace_path)


@pytest.fixture
def own_trace_path(shared_trace_path: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(shared_trace_path, tmp_path / "trace"))


@pytest.fixture
def make_trace(tmp_path: Path) -> Callable[..., Trace]:
    """Write and open a trace of a plan of one's own."""

    def make(name: str = "made", **settings: object) -> Trace:
        write_synthetic(tmp_path / name, Synthetic(**settings))  # pyright: ignore[reportArgumentType]
        return open_trace(tmp_path / name)

    return make
