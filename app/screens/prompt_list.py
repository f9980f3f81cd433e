"""Lists of prompts for choosing one."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from ..shell import sources
from ..shell.page_context import PageContext
from ..text.literal import excerpt


@dataclass(frozen=True)
class PromptList:
    """Prompts that pass the bar's filter, in the order they were traced."""

    about: dict[str, tuple[str | None, str | None, str]]
    """prompt_id → language, parallel_id, beginning of the text."""
    others: dict[str, list[str]]
    """parallel_id → prompts of the whole trace that have it."""
    languages: dict[str, str | None]
    """prompt_id → language, for the whole trace."""

    def __len__(self) -> int:
        return len(self.about)

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self.about

    def find(self, text: str) -> list[str]:
        """Prompts whose id or text contains some text."""
        wanted = text.casefold().strip()
        return [
            prompt_id
            for prompt_id, (_, _, start) in self.about.items()
            if wanted in prompt_id.casefold() or wanted in start.casefold()
        ]

    def label(self, prompt_id: str) -> str:
        language, _, start = self.about[prompt_id]
        return " · ".join(filter(None, [language, prompt_id, excerpt(start)]))

    def language(self, prompt_id: str) -> str | None:
        return self.languages[prompt_id]

    def parallel(self, prompt_id: str) -> list[str]:
        """The other prompts with the same parallel_id, by language."""
        unit = self.about[prompt_id][1]
        found = [other for other in self.others.get(unit or "", []) if other != prompt_id]
        return sorted(found, key=lambda other: self.languages[other] or "")


def prompt_list(context: PageContext) -> PromptList:
    """The prompts that pass the bar's filter."""
    return _prompt_list(context.url, sources.version(context.url), dict(context.where))


@st.cache_data(max_entries=16, show_spinner=False)
def _prompt_list(url: str, version: tuple[str, int], where: dict[str, list[str]]) -> PromptList:
    trace = sources.get(url)
    columns = ["prompt_id", "language", "parallel_id"]
    everything = trace.prompts().select(columns).to_pylist()
    others: dict[str, list[str]] = {}
    for row in everything:
        if row["parallel_id"]:
            others.setdefault(row["parallel_id"], []).append(row["prompt_id"])
    chosen = trace.prompts(where or None).select([*columns, "text"]).to_pylist()
    about = {row["prompt_id"]: (row["language"], row["parallel_id"], row["text"] or "") for row in chosen}
    return PromptList(about, others, {row["prompt_id"]: row["language"] for row in everything})
