"""Both loads in one table: each cell tells both sides, and nothing where a side has no such cell."""

from __future__ import annotations

import pyarrow as pa

from moescope.store.compare.loads import side_by_side_loads


def loads(layers: dict[int, list[float]], tokens: int) -> pa.Table:
    rows = [
        {"stream": "decoder", "layer": layer, "expert": expert, "value": value, "tokens": tokens}
        for layer, values in layers.items()
        for expert, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows)


def test_each_cell_tells_both_sides():
    table = side_by_side_loads(loads({0: [0.75, 0.25], 3: [1.0, 0.0]}, 8), loads({0: [0.5, 0.5]}, 4))
    cells = {(r["trace"], r["layer"], r["expert"]): r for r in table.to_pylist()}
    assert len(cells) == 6
    for trace, value in (("a", 0.75), ("b", 0.5)):
        cell = cells[trace, 0, 0]
        assert cell["value"] == value
        assert (cell["share_a"], cell["share_b"], cell["difference"]) == (0.75, 0.5, 0.25)
        assert (cell["tokens_a"], cell["tokens_b"]) == (8, 4)
    alone = cells["a", 3, 0]
    assert (alone["share_a"], alone["share_b"], alone["difference"], alone["tokens_b"]) == (
        1.0,
        None,
        None,
        None,
    )
