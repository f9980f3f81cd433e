"""Two traces side by side: which of their rows are the same token, and how far their routing agrees there.

    pairs = pair_traces(open_trace("a"), open_trace("b"))
    view(pairs, "agreement", by="language")

`pairing` joins the tokens, `pairs.Pairs` the events of a router; `by_layer`, `tokens`, `margin`, `experts`, `prompts`
and `sequences` are the views, and `manifests` says what differs between the two runs.
"""

from .pairing import pair_traces
from .pairs import Pairs
from .views import view

__all__ = ["Pairs", "pair_traces", "view"]
