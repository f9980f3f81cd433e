"""The expert sheet: what is written is read, an interrupted one goes on, a changed file is named."""

from types import SimpleNamespace

import pytest

from moescope.store.errors import DamagedPart, StoreError
from moescope.store.expert_sheet import expert_sheet, read_sheet_list, write_router_rows
from moescope.store.files.folder import open_folder


def _rows(layer: int) -> list[dict]:
    return [
        {"layer": layer, "stream": "decoder", "expert": e, "reap": e / 2, "output_similarity": [1.0, 0.5]}
        for e in range(2)
    ]


def test_rows_come_back_by_router_and_what_was_not_measured_is_null(tmp_path):
    folder, trace = open_folder(tmp_path), SimpleNamespace(url=str(tmp_path))
    assert expert_sheet(trace) is None
    write_router_rows(folder, 1, _rows(5), {"probe": 8})
    write_router_rows(folder, 0, _rows(2), {"probe": 8})
    table = expert_sheet(trace)
    assert table is not None
    assert table["layer"].to_pylist() == [2, 2, 5, 5]
    assert table["reap"].to_pylist() == [0, 0.5, 0, 0.5]
    assert table["output_similarity"][0].as_py() == [1.0, 0.5]
    assert table["rtn_error"].null_count == 4
    # Written again, a router's rows are replaced, not doubled.
    write_router_rows(folder, 0, _rows(2), {"probe": 8})
    assert len(expert_sheet(trace) or []) == 4


def test_a_sheet_with_other_settings_starts_anew(tmp_path):
    folder = open_folder(tmp_path)
    write_router_rows(folder, 0, _rows(2), {"probe": 8})
    write_router_rows(folder, 1, _rows(5), {"probe": 9})
    assert [one["router"] for one in (read_sheet_list(folder) or {})["routers"]] == [1]


def test_changed_missing_and_newer_files_are_named(tmp_path):
    folder, trace = open_folder(tmp_path), SimpleNamespace(url=str(tmp_path))
    write_router_rows(folder, 0, _rows(2), {})
    part = tmp_path / "experts" / "part-00000.parquet"
    part.write_bytes(part.read_bytes() + b"x")
    with pytest.raises(DamagedPart, match="part-00000"):
        expert_sheet(trace)
    part.unlink()
    with pytest.raises(DamagedPart, match="part-00000"):
        expert_sheet(trace)
    folder.put("experts/sheet.json", b'{"version": 2, "routers": []}')
    with pytest.raises(StoreError, match="version 2"):
        expert_sheet(trace)
