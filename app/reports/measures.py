"""What each family of views measures, in the sentence that a methods paragraph takes, and whom to cite for it.

The full definitions are those of docs/methods.
"""

from __future__ import annotations

CITATIONS = {
    "alignment": "Bandarkar et al. 2025, Multilingual Routing in Mixture-of-Experts, arXiv:2510.04694",
    "resonance": "Dahlke et al. 2025, Mixture of Tunable Experts, arXiv:2502.11096",
    "consistency": "Liang et al. 2025, Not All Models Suit Expert Offloading: On Local Routing Consistency, "
    "arXiv:2505.16056",
    "benjamini": "Benjamini and Hochberg 1995, Controlling the False Discovery Rate",
    "adjusted": "Vinh, Epps and Bailey 2010, Information Theoretic Measures for Clusterings Comparison: Variants, "
    "Properties, Normalization and Correction for Chance",
    "mixtral": "Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088",
}

_PATHS = (
    "A token's path is the sequence of its first experts (those with the largest gate weight) over the layers"
)
_EXPECTED = "expected is what independent layers with the same loads would give"
_LOAD = "The load of an expert is the share of tokens that choose it"
_SPECIALISED = (
    "An expert is specialised where its mean selection frequency exceeds that of the pivot by more than τ."
)
_ALIGNMENT = (
    "Routing divergence is the Jensen–Shannon divergence of two sequences' mean router probabilities, divided by "
    "the logarithm of the number of experts minus the mean of their entropies; it is computed for each parallel "
    "pair and then averaged, with 95 % bootstrap intervals over texts."
)
_RESONANCE = (
    "The score of an expert is the mean of the first group's routing maps minus that of the rest. P-values come "
    "from permutations of whole prompts, within translation pairs where these exist, and are corrected over all "
    "experts by Benjamini and Hochberg."
)
_FIT = "Decisions are fitted on one part of the prompts and reported on the others."

MEASURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "load": (f"{_LOAD}; even routing gives k/E.", ()),
    "load-balance": (
        "The imbalance of a layer is the load of its busiest expert over the mean load; the Gini coefficient, the "
        "coefficient of variation and the entropy are taken over the experts' counts.",
        (),
    ),
    "load-difference": (f"{_LOAD}; shown is the load of A minus that of B.", ()),
    "load-drift": (
        "The prompts are cut, in the order of the trace, into stretches of about equally many tokens; what moved is "
        "half the sum over experts of the difference of their shares from those of the whole run.",
        (),
    ),
    "load-influence": (
        "The influence of a prompt on the load is the change of the layer's imbalance where that prompt is left out.",
        (),
    ),
    "expert-shares": (f"{_LOAD}; even routing gives k/E.", ()),
    "prompt-tokens": ("The first expert of a token is the one with the largest gate weight.", ()),
    "alignment": (_ALIGNMENT, ("alignment",)),
    "alignment-correlation": (
        f"{_ALIGNMENT} Scores and divergences are correlated over languages, with 95 % bootstrap intervals over "
        "languages.",
        ("alignment",),
    ),
    "routing-entropy": (
        "Routing entropy is the entropy of a sequence's mean router probabilities.",
        ("alignment",),
    ),
    "routing-consistency": (
        "Consistency is the mean overlap of the experts of two tokens of one sequence (our choice of measure).",
        ("alignment",),
    ),
    "specialised": (_SPECIALISED, ("alignment",)),
    "resonance": (_RESONANCE, ("resonance", "benjamini")),
    "expert-half-life": (
        "The half-life of an expert is the number of tokens after which half of its uses have ended; chance is that "
        "of independent tokens with the layer's own load (our choice of measure).",
        (),
    ),
    "local-consistency": (
        "Segment routing best performance (SRP) is taken over sliding windows of one sequence; beside it stands that "
        "of tokens that choose independently with the layer's own load.",
        ("consistency",),
    ),
    "cache-hits": (
        "Hit rates are those of a cache of experts in each layer, judged before a token's experts are taken in; SCH "
        "and Belady know the tokens to come and are bounds. The control is a cache that always holds the layer's "
        "most used experts.",
        ("consistency",),
    ),
    "explained": (
        "The share of the first expert that a label explains is their mutual information less its mean over "
        "permutations of the labels, over the entropy of the first expert less the same mean; intervals are a "
        "delete-a-group jackknife over prompts.",
        ("adjusted",),
    ),
    "tag-information": (
        "What a tag says of a prompt's experts is their mutual information beside that of tags exchanged between "
        "prompts.",
        ("benjamini",),
    ),
    "tag-experts": (
        "Shown are the largest of many differences of an expert's share between one value of a tag and the others; "
        "they are a selection, not a test.",
        (),
    ),
    "specialisation": (
        "The spread of an expert over the values of a tag is the standard deviation of its rates over their mean.",
        ("consistency",),
    ),
    "vocabulary": (
        "For each token id with enough occurrences, the share of them that choose an expert is held against the "
        "largest share that a token with as many occurrences gets by chance under the layer's load.",
        (),
    ),
    "token-experts": (
        "The share of a token id's occurrences that choose an expert is held against the layer's load; intervals are "
        "bootstraps over the prompts that hold the token.",
        (),
    ),
    "paths": (f"{_PATHS}; {_EXPECTED}.", ()),
    "path-groups": (
        f"{_PATHS}; the experts used least are counted as one group, and {_EXPECTED}.",
        (),
    ),
    "flows": (f"{_PATHS}; {_EXPECTED}.", ()),
    "transitions": (f"{_PATHS}; {_EXPECTED}.", ()),
    "repeats": (
        "Repeats are the share of consecutive tokens of a prompt that share one of their first experts; beside it "
        "stand even, independent routing and independent tokens with the layer's own load. Intervals are bootstraps "
        "over prompts.",
        ("mixtral",),
    ),
    "co-activation": (
        "The lift of two experts is the number of tokens that use both over what independent experts with the same "
        "loads would have.",
        (),
    ),
    "expert-map": (
        "Experts are placed by two principal axes of the logarithm of their rates over the values of a tag, each "
        "against its own mean.",
        (),
    ),
    "timeline": (
        "The share of an expert at a place is the number of tokens there that choose it over all tokens there; "
        "intervals are bootstraps over the prompts of the place.",
        (),
    ),
    "gate-weights": (
        "Gate weights are those that multiply the expert's output, over the tokens that choose it.",
        (),
    ),
    "placement": (
        f"{_FIT} Balancedness is the mean over the largest load of the devices; a transition is remote where "
        "consecutive layers' experts lie on different devices.",
        (),
    ),
    "dispatch": (
        "What a device sends counts the choices of its tokens by the device that holds the expert.",
        (),
    ),
    "offload": (
        f"{_FIT} Hit rates are those of a cache of experts under each rule, replayed over the tokens of the trace.",
        (),
    ),
    "agreement": (
        "A flip is another set of experts for the same token at the same router; set overlap is the size of the "
        "intersection over that of the larger set. Intervals are bootstraps over prompts.",
        (),
    ),
}
"""Family of views → the measure in one sentence, and keys of CITATIONS."""
