"""The stops of the tour: six pages on the sample, the last one with experts off."""

from __future__ import annotations

from ....store.schema import LayerExpert
from ...shell.tour import Stop
from ...steering import profiles

_FRENCH = [(1, 0), (3, 4), (4, 3), (4, 24), (5, 6), (5, 19), (6, 7), (6, 13), (7, 9), (7, 30)]
WITHOUT_FRENCH = profiles.profile(
    "ten French experts off", "",
    profiles.rules_by_layer("off", [LayerExpert(layer, expert) for layer, expert in _FRENCH]),
)  # fmt: skip
"""The ten experts of the sample with the largest score of French against all other languages (Resonance), off."""
FRENCH_PROMPT = "Tout individu a droit à"
"""The sample's answer to it changes without them; few answers change without one expert."""


STOPS = (
    Stop(
        "heatmap", {},
        "Each row is a layer, each square an expert; dark squares get many tokens. Even routing would make all squares "
        "alike. Click one to see what it reads.",
    ),
    Stop(
        "tokens", {"prompt": "udhr-01/ja", "beneath": "ar"},
        "One text, token by token. The stripe beneath a character has its first expert's colour; move the slider from "
        "the input to the output and watch the colours change.",
    ),
    Stop(
        "structure", {},
        "How much of the choice does the token alone explain, and how much the position or the layer before?",
    ),
    Stop(
        "alignment", {},
        "Each line is a language: how far its routing departs from English, layer by layer, over the same texts. Rest "
        "the pointer on a name to lift its line.",
    ),
    Stop(
        "resonance", {"contrast": "language", "target": "Japanese (ja)"},
        "Which experts respond to Japanese more than to all other languages? Every score comes with a test; the table "
        "names the tokens behind it.",
    ),
    Stop(
        "steer", {"profile": profiles.in_address(WITHOUT_FRENCH), "ask": FRENCH_PROMPT},
        "The same model, live, with ten experts off. Press Generate: both answers stand side by side. Then click "
        "squares of your own; one expert alone seldom changes the words.",
    ),
)  # fmt: skip
