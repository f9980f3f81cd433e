"""Figures of the Structure page: they render, hold the views' numbers, and keep token text from becoming markup."""

from __future__ import annotations

import json

import pytest

from moescope.app import export
from moescope.app.figures.structure.expert_scatter import expert_scatter, expert_scatter_still
from moescope.app.figures.structure.parallel import parallel
from moescope.app.figures.structure.parallel_layout import parallel_layout
from moescope.app.figures.structure.sankey import sankey, sankey_still
from moescope.app.figures.theme import DARK, LIGHT
from moescope.app.reports.of_view import of_view
from moescope.store import Trace, open_trace
from moescope.store.write.synthetic import Synthetic, write_synthetic

VIEWS = {
    "explained": {},
    "local-consistency": {"m": "4,16"},
    "cache-hits": {},
    "repeats": {"depth": 2},
    "tag-information": {"by": "language", "permutations": 10},
    "flows": {"layers": "0:2"},
    "path-groups": {"layers": "0:2", "most": 3},
    "load-drift": {"batches": 4},
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("figures") / "trace"
    write_synthetic(str(path), Synthetic(prompts=16, tokens_per_prompt=30, experts=8, top_k=2, layers=3))
    return open_trace(path)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_has_a_figure_that_exports(trace: Trace, view: str) -> None:
    figure = of_view(view)
    assert figure is not None
    table = trace.view(view, **VIEWS[view])
    for theme in (LIGHT, DARK):
        spec = export.specification(figure.draw(table, theme), title=figure.title, say=figure.say(table))
        assert export.to_svg(spec).startswith(b"<svg")
    assert export.to_png(spec).startswith(b"\x89PNG")


def test_the_interactive_pictures_hold_the_numbers_of_the_still_ones(trace: Trace) -> None:
    flows = trace.view("flows", layers="0:2", limit=5)
    link = sankey(flows, theme=LIGHT).to_dict()["data"][0]["link"]
    assert sorted(link["value"]) == sorted(flows["tokens"].to_pylist())
    still = sankey_still(flows, theme=LIGHT).to_dict()
    drawn = [row for rows in still["datasets"].values() for row in rows if "ribbon" in row]
    assert sorted({(row["ribbon"], row["tokens"]) for row in drawn}, key=lambda r: r[0]) == list(
        enumerate(flows["tokens"].to_pylist())
    )
    experts = trace.view("expert-map")
    for colour in ("layer", "load", "tag"):
        points = expert_scatter(experts, by="language", colour=colour, theme=DARK).to_dict()["data"][0]
        assert points["type"] == "scattergl"
        assert [tuple(cell) for cell in points["customdata"]] == list(
            zip(*(experts[name].to_pylist() for name in ("stream", "layer", "expert")), strict=True)
        )
        assert expert_scatter_still(experts, by="language", colour=colour).to_dict()


def test_ribbons_of_paths_fill_their_boxes(trace: Trace) -> None:
    paths = trace.view("path-groups", layers="0:2", most=3, limit=0)
    boxes, ribbons = parallel_layout(paths)
    counts = paths["count"].to_pylist()
    assert sum(counts) == trace.num_tokens
    assert [ribbon.tokens for ribbon in ribbons] == counts * 2
    for number, box in enumerate(boxes):
        for mine, low in (("source", "from_low"), ("target", "to_low")):
            own = sorted((r for r in ribbons if getattr(r, mine) == number), key=lambda r: getattr(r, low))
            assert not own or sum(r.tokens for r in own) == box.tokens
            at = box.low
            for ribbon in own:  # one behind the other, from the top of the box to its end
                assert getattr(ribbon, low) == pytest.approx(at)
                at += ribbon.tokens / box.tokens * (box.high - box.low)
            assert not own or at == pytest.approx(box.high)
    whole = parallel(paths, theme=DARK).to_dict()["data"][0]
    assert whole["type"] == "parcats"
    assert list(whole["counts"]) == counts
    for column, dimension in enumerate(whole["dimensions"]):
        told = [
            ["others" if e is None else str(e) for e in row][column] for row in paths["experts"].to_pylist()
        ]
        assert list(dimension["values"]) == told
        assert len(dimension["categoryarray"]) == 4


def test_token_text_is_no_markup_in_a_hover_card(trace: Trace) -> None:
    experts = trace.view("expert-map", by="token")
    evil = experts.set_column(
        experts.schema.get_field_index("most"), "most", [["<a href='x'>&amp;</a>"] * experts.num_rows]
    )
    points = expert_scatter(evil, by="token", theme=LIGHT).to_dict()["data"][0]
    assert "<a" not in json.dumps(points["text"])
