"""Prompt text on the page is literal, and sentences have the numbers right."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.app.text import words
from moescope.app.text.literal import context_html, direction, excerpt, visible, visible_token


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)

    def handle_data(self, data):
        self.text += data


def row(**parts) -> dict:
    return {"before": "", "token": "", "after": "", "weight": 0.5, "language": "en", "prompt_id": "p"} | parts


@given(st.text(), st.text(), st.text())
def test_no_text_makes_an_element_of_its_own(before: str, token: str, prompt_id: str):
    parser = Tags()
    parser.feed(context_html(row(before=before, token=token, prompt_id=prompt_id)))
    assert parser.found == ["p", "bdi", "mark", "small"]
    assert visible(before) + visible(token) in parser.text


def test_right_to_left_text_reads_from_the_right():
    assert direction("ar") == direction("he-IL") == "rtl"
    assert direction("en") == direction(None) == "auto"
    assert '<p class="ms-context" dir="rtl">' in context_html(row(language="ar"))


def test_the_invisible_is_made_visible():
    assert visible("a\u202eb\n\t\x07") == "a‹202E›b⏎⇥␇"
    assert visible(None) == "∅"
    assert [visible_token(text) for text in (" ", "  ", " a", "\n", None)] == ["␣", "␣␣", " a", "⏎", "∅"]
    assert visible("é の 🙂") == "é の 🙂"


def test_an_excerpt_is_one_short_line():
    assert excerpt("one\n two   three") == "one two three"
    assert len(excerpt("word " * 100, 40)) <= 40


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.314, "31.4 %"), (0.125, "12.5 %"), (0.5, "50 %"), (0.0314, "3.1 %"), (0.00314, "0.31 %"), (0, "0 %")],
)
def test_percent(share: float, text: str):
    assert words.percent(share) == text.replace(" ", "\u202f")


def test_unknown_is_a_dash():
    assert words.percent(None) == words.percent(float("nan")) == "–"


def test_points_have_a_sign():
    assert words.points(-0.053) == "−5.3\u202fpoints"
    assert words.points(0.3) == "+30\u202fpoints"


def test_listings_count_what_they_leave_out():
    assert words.listing(["a"]) == "a"
    assert words.listing(["a", "b", "c"]) == "a, b and c"
    assert words.listing("abcdef") == "a, b, c and 3 more"
    assert words.listing([]) == "none"


def test_selections_in_words():
    assert words.selection({}) == "all prompts"
    assert words.selection({"language": ["ja", "ko"], "seen": ["no"]}) == "Japanese and Korean, seen no"


def test_languages_have_their_names_from_cldr():
    assert words.language_name("ja") == "Japanese"
    assert words.language_name("zh-Hant") == "Chinese (Traditional)"
    assert words.language_name("pt_br") == "Portuguese (Brazil)"
    assert words.language_name("eng_Latn") == "English (Latin)"
    assert words.language_name("xqx") == "xqx"
    assert words.language_name(None) == "no language"


def test_direction_goes_by_the_script():
    right = ("ar", "he-IL", "ur", "ckb", "yi", "dv", "pa-PK", "az-Arab", "pes_Arab", "arb_Arab")
    assert [code for code in right if direction(code) != "rtl"] == []
    left = ("en", "pa", "ru", "ja", "sd-Deva", "xqx", "", None)
    assert [code for code in left if direction(code) != "auto"] == []


@given(st.text())
def test_labels_escape_every_sign_of_markdown(text: str):
    unescaped = re.sub(r"\\(.)", "", words.label(text), flags=re.S)
    assert not set(unescaped) & set("*_`[]<>$:#")
