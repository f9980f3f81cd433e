"""Tokens of a prompt and what is said of each: special, completion, and its text."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import character_tokenizer
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from moescope.tracer.prompts.prompt_set import PromptSet
from moescope.tracer.tokens.chat import render
from moescope.tracer.tokens.encode import Encoder, EncodingError
from moescope.tracer.tokens.token_text import TokenTexts, readable


@pytest.fixture(scope="module")
def byte_tokenizer():
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(["the cat and the hat, the end", "語のテキスト 語の 語の"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")


def encode(tokenizer, chat=False, **row):
    (encoded,) = Encoder(tokenizer, chat=chat).prompts(list(PromptSet.from_rows([row])))
    return encoded


def marked(tokenizer, encoded, mark):
    """The text of the marked tokens."""
    ids = encoded.ids[getattr(encoded, mark)]
    return "".join(TokenTexts(tokenizer).of(ids).to_pylist())


@settings(deadline=None, max_examples=60)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
        str.strip
    )
)
def test_token_texts_end_to_end_are_the_text(byte_tokenizer, text):
    ids = encode(byte_tokenizer, text=text).ids
    texts = TokenTexts(byte_tokenizer).of(ids).to_pylist()
    restored = b""
    for piece in texts:
        for part in piece.replace("⟩", "⟨").split("⟨"):
            restored += bytes([int(part, 16)]) if len(part) == 2 and part in _BYTES else part.encode()
    if "⟨" not in text and "⟩" not in text:
        assert restored.decode() == text


_BYTES = {f"{byte:02X}" for byte in range(0x80, 0x100)}


def test_a_character_that_is_split_over_tokens_shows_its_bytes(byte_tokenizer):
    texts = TokenTexts(byte_tokenizer).of(encode(byte_tokenizer, text=" é ok").ids).to_pylist()
    assert texts == [" ", "⟨C3⟩", "⟨A9⟩", " ", "o", "k"]
    assert readable("aé".encode()) == "aé"
    assert readable(b"a\xe8\xaa") == "a⟨E8⟩⟨AA⟩"


def test_sentencepiece_spellings_are_read():
    vocabulary = {"<unk>": 0, "▁the": 1, "<0xE2>": 2, "cat": 3, "<0x41>": 4}

    class Pieces:
        added_tokens_decoder = MappingProxyType({0: "<unk>"})

        def get_vocab(self):
            return vocabulary

    texts = TokenTexts(Pieces())
    assert texts.of(np.asarray([1, 3, 2, 4, 0, 9])).to_pylist() == [
        " the", "cat", "⟨E2⟩", "A", "<unk>", "⟨token 9⟩"
    ]  # fmt: skip


def test_the_completion_is_marked_and_a_shared_token_is_its_own(byte_tokenizer):
    encoded = encode(byte_tokenizer, text="the ca", completion="t and the hat")
    assert marked(byte_tokenizer, encoded, "completion").endswith("t and the hat")
    tokenizer = character_tokenizer()
    encoded = encode(tokenizer, text="ab ", completion="cd")
    assert encoded.completion.tolist() == [False] * 4 + [True] * 2
    assert encoded.special.tolist() == [True] + [False] * 5


def test_special_tokens_in_a_text_are_special(byte_tokenizer):
    encoded = encode(byte_tokenizer, text="the<|end|>hat")
    assert marked(byte_tokenizer, encoded, "special") == "<|end|>"


def test_without_offsets_the_completion_begins_where_the_tokens_part(byte_tokenizer):
    class Slow:
        is_fast = False
        all_special_ids = byte_tokenizer.all_special_ids

        def __call__(self, text, **options):
            return {"input_ids": byte_tokenizer(text)["input_ids"]}

    slow, fast = (
        encode(tokenizer, text="the cat", completion=" and the hat") for tokenizer in (Slow(), byte_tokenizer)
    )
    assert slow.ids.tolist() == fast.ids.tolist()
    assert slow.completion.tolist() == fast.completion.tolist()


def test_tokens_of_the_chat_template_are_special():
    tokenizer = character_tokenizer(chat=True)
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": " user "}]
    encoded = encode(tokenizer, chat=True, messages=messages, completion="ok")
    texts = TokenTexts(tokenizer)
    assert "".join(texts.of(encoded.ids).to_pylist()) == "<|system|>be kind\n<|user|>user\n<|assistant|>ok"
    assert "".join(texts.of(encoded.ids[~encoded.special]).to_pylist()) == "be kinduserok"
    assert marked(tokenizer, encoded, "completion") == "ok"


@settings(deadline=None)
@given(contents=st.lists(st.text("ab |<>user\n", max_size=8), min_size=1, max_size=3))
def test_message_contents_are_found_whatever_they_are(contents):
    tokenizer = character_tokenizer(chat=True)
    text, spans = render(tokenizer, [{"role": "user", "content": content} for content in contents])
    assert [text[start:end] for start, end in spans] == [content.strip() for content in contents]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        (
            "{% if messages[0].content == 'hi' %}short{% else %}{{ messages[0].content }}!{% endif %}",
            "formats these messages differently",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_named_with_the_prompt(template, message):
    tokenizer = character_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(EncodingError, match=rf"prompt '1': .*{message}"):
        encode(tokenizer, chat=True, text="hi")


def test_a_chat_needs_the_template():
    with pytest.raises(EncodingError, match="--chat"):
        encode(character_tokenizer(chat=True), messages=[{"role": "user", "content": "hi"}])


def test_a_prompt_without_tokens_is_named():
    with pytest.raises(EncodingError, match="'1' gives no token"):
        Encoder(character_tokenizer(start=False)).prompts(
            [PromptSet.from_rows(["x"])[0].__class__(id="1", text="")]
        )
