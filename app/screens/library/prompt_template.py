"""A template with slots as a prompt set: `What happened {time}{place}?` with a list of values for each slot."""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path
from typing import Any

import streamlit as st

from ....tracer.prompts.expand import expand_template
from ....tracer.prompts.prompt import PromptSetError
from ....tracer.prompts.prompt_set import PromptSet
from ....tracer.prompts.write import write_prompts
from ...shell import messages
from ...text import words
from ...text.literal import visible

EXAMPLE = "What happened {time}{place}?"
EXAMPLE_VALUES = {"time": "yesterday\nin 1989", "place": "\n in Beijing\n in Paris"}
SHOWN = 4


def draw() -> tuple[str, bytes] | None:
    """Draw the editor; the name and the CSV of its prompt set, None while there is none."""
    template = st.text_input(
        "Template", value=EXAMPLE, key="template",
        help="Slots stand in braces; write {{ for a brace. Every combination of the slots' values becomes a prompt, "
        "and the values are kept as tags.",
    )  # fmt: skip
    try:
        spec = _spec(template or "")
        prompts = expand_template(spec)
    except PromptSetError as error:
        messages.card(
            "No prompt set yet", str(error), kind="error", todo="Correct the template or its slots."
        )
        return None
    first = "; ".join(f"“{visible(prompt.text)}”" for prompt in prompts[:SHOWN])
    more = ", …" if len(prompts) > SHOWN else "."
    messages.say(f"{words.amount(len(prompts), 'prompt')}: {first}{more}")
    data = as_csv(prompts)
    with st.container(horizontal=True, gap="small"):
        st.download_button("Prompts as CSV", data, file_name="prompts.csv", mime="text/csv", on_click="ignore",
                           type="tertiary", key="template csv")  # fmt: skip
        st.download_button(
            "Template as TOML", as_toml(spec), file_name="template.toml", mime="application/toml",
            on_click="ignore", type="tertiary", key="template toml", help="For moescope prompts expand",
        )  # fmt: skip
    return "template.csv", data


def _spec(template: str) -> dict[str, Any]:
    """The template with what the fields beneath it say, as `expand_template` takes it."""
    slots = slots_of(template)
    values = {}
    for place, slot in zip(st.columns(max(len(slots), 1)), slots, strict=False):
        text = place.text_area(
            f"{slot}, a value a line", value=EXAMPLE_VALUES.get(slot, ""), key=f"slot {slot}", height=120,
            help="Spaces count; an empty line is an empty value.",
        )  # fmt: skip
        values[slot] = values_of(text or "")
    left, right = st.columns(2)
    contrast = left.selectbox(
        "Group by", slots, index=None, placeholder="no slot", key="template contrast",
        help="The slot whose values are to be contrasted: it becomes the group, and prompts that differ in it "
        "alone are paired.",
    )  # fmt: skip
    language = right.text_input("Language", key="template language", placeholder="a BCP 47 code such as en")
    spec: dict[str, Any] = {"template": template, "slots": values}
    if contrast:
        spec["contrast"] = contrast
    if language:
        spec["columns"] = {"language": language.strip()}
    return spec


def slots_of(template: str) -> list[str]:
    """Names of the slots in the order they stand.

    Raises:
        PromptSetError: braces that do not match, or a slot without a name.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise PromptSetError(f"the template: {error} (write {{{{ for a brace)") from None
    if any(not field.isidentifier() for field in fields):
        raise PromptSetError("the template: a slot needs a name of letters, as in {time}")
    return list(dict.fromkeys(fields))


def values_of(text: str) -> list[Any]:
    """A slot's values, a line each; one empty line is an empty value, with the tag `none`."""
    lines = text.split("\n")
    values: list[Any] = [line for line in lines if line.strip()]
    empty = [number for number, line in enumerate(lines) if not line.strip() and number < len(lines) - 1]
    return [{"text": "", "tag": "none"}, *values] if empty else values


def as_csv(prompts: PromptSet) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_prompts(prompts, Path(folder) / "prompts.csv").read_bytes()


def as_toml(spec: dict[str, Any]) -> str:
    """The template as `moescope prompts expand` reads it."""
    lines = [f"template = {_quoted(spec['template'])}"]
    lines += [f"contrast = {_quoted(spec['contrast'])}"] if "contrast" in spec else []
    lines += ["", "[slots]"]
    for slot, values in spec["slots"].items():
        items = [
            f"{{ text = {_quoted(value['text'])}, tag = {_quoted(value['tag'])} }}"
            if isinstance(value, dict)
            else _quoted(value)
            for value in values
        ]
        lines.append(f"{slot} = [{', '.join(items)}]")
    if "columns" in spec:
        lines += ["", "[columns]", *(f"{name} = {_quoted(value)}" for name, value in spec["columns"].items())]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
