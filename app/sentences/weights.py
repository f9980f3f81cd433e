"""What an expert's weights say, in words."""

from __future__ import annotations

import pyarrow as pa

from ...store.notes import notes_of
from ...store.views.structure.weights import ROUTER_ROW


def weights(table: pa.Table) -> str:
    """Norms beside those of the layer.

    Args:
        table: the view `expert-weights`.
    """
    parts = []
    for row in table.to_pylist():
        name = "its row of the router" if row["matrix"] == ROUTER_ROW else row["matrix"]
        place = f"rank {row['rank']} of {row['experts']}, layer mean {row['layer_mean']:.3g}"
        parts.append(f"{name} {row['norm']:.3g} ({place})")
    return f"Norms: {'; '.join(parts)}." if parts else " ".join(notes_of(table))


def likeness(table: pa.Table) -> str:
    """The most similar expert, beside what is usual in the layer.

    Args:
        table: the view `expert-likeness`.
    """
    if not table.num_rows:
        return " ".join(notes_of(table))
    best = table.slice(0, 1).to_pylist()[0]
    said = (
        f"Its row of the router is most like that of expert {best['expert']}: cosine {best['router_cosine']:.2f}; any "
        f"two experts of the layer have {best['router_mean']:.2f} on average, 95 % of pairs at most "
        f"{best['router_high']:.2f}."
    )
    if best["output_similarity"] is not None:
        said += (
            f" On the same tokens their outputs have cosine {best['output_similarity']:.2f} (on average "
            f"{best['output_mean']:.2f})."
        )
    return said


def what_to_run(model: str, url: str) -> str:
    """Where no sheet is there."""
    return (
        "Norms of its weights, and experts with similar rows of the router or similar outputs, are not measured yet. "
        f"Run: moescope weigh {model} --trace {url}"
    )
