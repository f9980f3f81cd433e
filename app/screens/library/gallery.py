"""The gallery of routers: a card for each example, which a click makes into a trace of the library."""

from __future__ import annotations

import html
from collections.abc import Mapping
from urllib.parse import parse_qsl

import streamlit as st

from ....sample_data import gallery
from ....store.library import TraceSummary
from ....tracer.jobs.jobs import SUFFIX, Job, start_example
from ...shell import messages, sources, travel
from ...shell.page_context import current_theme
from ...shell.show import side_by_side
from ...text import words

IN_A_ROW = 3


def draw(known: Mapping[str, TraceSummary]) -> None:
    """Draw all cards.

    Args:
        known: the traces that the Library lists.
    """
    st.subheader("Gallery of routers", anchor=False)
    cards = gallery.cards()
    messages.say(
        f"{words.amount(len(cards), 'small example')} of other kinds of routers, each trained and traced on this "
        "machine in seconds to a minute, without a download. Each card says what is toy about it."
    )
    for start in range(0, len(cards), IN_A_ROW):
        row = cards[start : start + IN_A_ROW]
        columns = side_by_side(IN_A_ROW, key=f"gallery-{start}", gap="small")
        for column, card in zip(columns, row, strict=False):
            with column:
                _card(card, known)


def _card(card: gallery.Card, known: Mapping[str, TraceSummary]) -> None:
    with st.container(border=True, key=f"gallery-card-{card.name}", height="stretch",
                      vertical_alignment="distribute"):  # fmt: skip
        with st.container():
            picture = card.thumbnails[current_theme().name]
            if picture.is_file():
                st.image(str(picture), width="stretch", alt=f"Routing of the example “{card.title}”")
            papers = "".join(
                f' · <a href="https://arxiv.org/abs/{number}" target="_blank" rel="noopener">arXiv {number}</a>'
                for number in card.papers
            )
            st.html(
                f'<p class="ms-gallery-title">{html.escape(card.title)}</p>'
                f'<p class="ms-gallery-text">{_plain(card.sentence)}</p>'
                f'<p class="ms-gallery-text"><b>Toy:</b> {_plain(card.toy)}</p>'
                f'<p class="ms-gallery-papers">{html.escape(_systems(card))}{papers}</p>'
            )
        _button(card, known)


def _plain(text: str) -> str:
    """A sentence of a card as HTML, without the marks of code."""
    return html.escape(text.replace("`", ""))


def _systems(card: gallery.Card) -> str:
    """The names of the systems, without numbers and papers."""
    names = (part.split(" (arXiv")[0].strip().lstrip("0123456789 ") for part in card.systems.split(";"))
    return ", ".join(names)


def _button(card: gallery.Card, known: Mapping[str, TraceSummary]) -> None:
    made = _made(card, known)
    with st.container(horizontal=True, vertical_alignment="center"):
        if made:
            page, params = address(card)
            st.button("Open", type="primary", key=f"gallery-open-{card.name}", on_click=travel.to, args=(page,),
                      kwargs={"trace": card.name, **params})  # fmt: skip
        elif _running(card):
            st.button("Running", disabled=True, key=f"gallery-busy-{card.name}",
                      help="How far it is stands at the top of this page.")  # fmt: skip
        else:
            st.button("Run", key=f"gallery-run-{card.name}", on_click=_start, args=(card,))
        with st.popover("More", type="tertiary", key=f"gallery-more-{card.name}"):
            for label, text in (
                ("Real", card.real),
                ("Not shown", card.not_shown),
                ("Look at", card.look_at),
            ):
                st.html(f'<p class="ms-gallery-text"><b>{label}:</b> {_plain(text)}</p>')
            if made and (measured := sources.get(known[card.name].url).manifest.settings.get("measured")):
                st.html('<p class="ms-gallery-text"><b>Measured:</b></p>')
                st.json(measured, expanded=1)
            st.code(f"moescope example {card.name} --out my-trace", language=None, wrap_lines=True)


def _made(card: gallery.Card, known: Mapping[str, TraceSummary]) -> bool:
    summary = known.get(card.name)
    if summary is None or summary.error:
        return False
    return sources.get(summary.url).manifest.settings.get("example") == card.name


def _running(card: gallery.Card) -> bool:
    job = Job(sources.library() / f"{card.name}{SUFFIX}")
    return job.folder.is_dir() and not job.status().ended


def address(card: gallery.Card) -> tuple[str, dict[str, object]]:
    """Page and parameters with which an example is best opened."""
    page, _, query = card.opens.partition("?")
    pairs = parse_qsl(query)
    return page, {name: [value] if name.startswith("tag.") else value for name, value in pairs}


def _start(card: gallery.Card) -> None:
    try:
        start_example(card.name, sources.library() / card.name)
    except OSError as error:
        st.toast(words.label(f"It could not be started: {error}"), icon=":material/error:")
