"""Uploads of several people lie side by side, and a job reads what was chosen."""

from __future__ import annotations

from moescope.app.screens.library.new_trace import UPLOADS, _keep, _kept
from moescope.tracer.jobs.jobs import _own_copy


def test_two_files_of_one_name_stay_two(tmp_path):
    mine, yours = (
        _keep(tmp_path, "prompts.csv", b"text\nmine\n"),
        _keep(tmp_path, "prompts.csv", b"text\nyours\n"),
    )
    assert mine.read_bytes() == b"text\nmine\n"
    assert yours.read_bytes() == b"text\nyours\n"
    assert set(_kept(tmp_path).values()) == {mine, yours}
    assert len({name for name in _kept(tmp_path) if name.startswith("prompts.csv (")}) == 2


def test_a_refused_file_takes_no_other_with_it(tmp_path):
    good, bad = _keep(tmp_path, "p.csv", b"text\ngood\n"), _keep(tmp_path, "p.csv", b"bad")
    bad.unlink()
    assert good.read_bytes() == b"text\ngood\n"
    assert _keep(tmp_path, "../../p.csv", b"x").is_relative_to(tmp_path / UPLOADS)


def test_a_job_reads_its_own_copy(tmp_path):
    prompts, folder = tmp_path / "p.csv", tmp_path / "t.job"
    folder.mkdir()
    prompts.write_text("text\nfirst\n")
    copy = _own_copy(prompts, folder)
    prompts.write_text("text\nsecond\n")
    assert copy.read_text() == "text\nfirst\n"
    assert copy.name == "p.csv"
    assert _own_copy(copy, folder).read_text() == "text\nfirst\n"  # tried again
