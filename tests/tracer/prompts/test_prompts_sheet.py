"""Prompt sets in a workbook: the file written by hand, part by part, as ECMA-376 describes it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from moescope.tracer import PromptSet, PromptSetError
from moescope.tracer.prompts import sheet

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def workbook(path: Path, *sheets: list[list[str | float | bool | None]]) -> Path:
    def cell(value: str | float | bool | None) -> str:
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        if isinstance(value, bool):
            return f'<c t="b"><v>{int(value)}</v></c>'
        return "<c/>" if value is None else f"<c><v>{value}</v></c>"

    names = [f"sheet{number}" for number in range(1, len(sheets) + 1)]
    listed = "".join(f'<sheet name="{n}" sheetId="{i}" r:id="{n}"/>' for i, n in enumerate(names, 1))
    related = "".join(f'<Relationship Id="{n}" Type="{OFFICE}/worksheet" Target="{n}.xml"/>' for n in names)
    with zipfile.ZipFile(path, "w") as file:
        whole = f'<Relationship Id="book" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
        file.writestr("_rels/.rels", f'<Relationships xmlns="{RELATIONS}">{whole}</Relationships>')
        file.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{listed}</sheets></workbook>',
        )
        file.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{RELATIONS}">{related}</Relationships>'
        )
        for name, rows in zip(names, sheets, strict=True):
            cells = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
            file.writestr(
                f"xl/{name}.xml", f'<worksheet xmlns="{MAIN}"><sheetData>{cells}</sheetData></worksheet>'
            )
    return path


def test_the_first_sheet_with_cells_is_read_as_text(tmp_path: Path) -> None:
    rows = [["prompt", None, "year", "seen"], ["Grüße", None, 2024, True], ["two\nlines", None, 1.5, None]]
    prompts = PromptSet.from_file(workbook(tmp_path / "p.xlsx", [], [*rows, [None] * 4]))
    assert [(p.text, p.tags) for p in prompts] == [
        ("Grüße", {"year": "2024", "seen": "true"}), ("two\nlines", {"year": "1.5"}),
    ]  # fmt: skip


def test_a_mistake_is_named_by_its_row(tmp_path: Path) -> None:
    path = workbook(tmp_path / "p.xlsx", [["text", "language"], ["a", "en"], [None, None], ["b", "en"]])
    with pytest.raises(PromptSetError, match=r"p\.xlsx, row 2 \(line 3\): empty row"):
        PromptSet.from_file(path)


@pytest.mark.parametrize("what", ["text", "half", "huge", "nothing"])
def test_what_is_no_workbook_is_refused(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "p.xlsx", [] if what == "nothing" else [["text"], ["a"]])
    if what == "text":
        path.write_text("text\na\n")
    elif what == "half":
        path.write_bytes(path.read_bytes()[:300])
    elif what == "huge":
        monkeypatch.setattr(sheet, "UNPACKED", 100)
    said = {"huge": "at most 100 are read", "nothing": "the file is empty"}.get(what, "not a readable sheet")
    with pytest.raises(PromptSetError, match=said):
        PromptSet.from_file(path)
