"""Renaming, tagging and binning move whole traces, and only those that the library itself holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moescope.store import StoreError, list_traces, open_trace, sample_dir
from moescope.store import library_edit as edit


@pytest.fixture
def library(tmp_path: Path) -> Path:
    shutil.copytree(sample_dir() / "trace", tmp_path / "one")
    return tmp_path


def names(library: Path) -> list[str]:
    return [found.name for found in list_traces(library) if not found.sample]


def test_a_renamed_trace_opens_under_its_new_name_with_its_tags(library):
    edit.set_tags(library, "one", ["paper", " paper ", "", "x"])
    edit.rename(library, "one", "two words")
    assert names(library) == ["two words"]
    assert open_trace(library / "two words").num_prompts == 1100
    assert edit.tags_of(library) == {"two words": ["paper", "x"]}


def test_the_bin_gives_back_what_it_took(library):
    edit.to_bin(library, "one")
    assert names(library) == []
    (one,) = edit.binned(library)
    shutil.copytree(sample_dir() / "trace", library / "one")
    assert edit.restore(library, one).name == "one-2"
    assert names(library) == ["one", "one-2"]
    edit.to_bin(library, "one")
    edit.empty_bin(library)
    assert edit.binned(library) == []


@pytest.mark.parametrize("new", ["../out", "a/b", ".hidden", "", "one", "x.job", "a\n"])
def test_a_new_name_stays_in_the_library(library, new):
    with pytest.raises(StoreError):
        edit.rename(library, "one", new)
    assert names(library) == ["one"]


@pytest.mark.parametrize("name", ["..", "nowhere", "../one"])
def test_only_its_own_traces_are_touched(library, name):
    with pytest.raises(StoreError, match="no trace"):
        edit.to_bin(library, name)


def test_a_link_in_the_library_is_not_followed(library, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "t"
    shutil.copytree(sample_dir() / "trace", elsewhere)
    (library / "link").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="no trace"):
        edit.to_bin(library, "link")
    assert (elsewhere / "trace.json").is_file()
