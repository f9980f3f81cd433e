"""The fields of a form for one kind of rule, from its row in the table of rules."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ....tracer.steering.kind import Option, RuleKind
from ....tracer.steering.rules import Amount


def ask(kind: RuleKind, key: str, *, amount: bool = True, k: int = 1) -> None:
    """Draw the fields for its amount (where asked for) and its options.

    Args:
        key: what the fields' keys in the session begin with.
        k: experts per token of the model, from which some fields start.
    """
    number = kind.number
    if number is not None and amount:
        st.number_input(number.label, number.least, None, number.first, number.step,
                        key=f"{key}-amount", width=190)  # fmt: skip
    for name, option in kind.options.items():
        _ask_option(option, f"{key}-{name}", k)


def _ask_option(option: Option, key: str, k: int) -> None:
    match option.holds if option.label else "":
        case "switch":
            st.toggle(option.label, value=bool(option.default), key=key)
        case "number":
            first = float(option.first(k) if option.default is None else option.default)
            bounds = (None, None) if option.most is None else (0.0, float(option.most))
            st.number_input(option.label, *bounds, first, option.step, key=key,
                            format="%.3f" if option.step < 0.01 else None)  # fmt: skip
        case "whole":
            first = option.first(k) if option.default is None else option.default
            st.number_input(option.label, 1, None, int(first), key=key)


def answered(kind: RuleKind, key: str) -> tuple[Amount, dict[str, Any]]:
    """Amount and options of the fields that `ask` has drawn, as a `Rule` holds them."""
    number, state = kind.number, st.session_state
    amount = None if number is None else state.get(f"{key}-amount", number.default)
    options = {name: state.get(f"{key}-{name}", default) for name, default in kind.defaults.items()}
    return (int(amount) if amount is not None and number and number.whole else amount), options
