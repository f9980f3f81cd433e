"""Which tokens pair, and what is told of the others."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pyarrow as pa
import pytest

from moescope.store import open_trace
from moescope.store.compare import pair_traces, view
from moescope.store.compare.manifests import manifest_differences
from moescope.store.errors import BadArgument
from moescope.store.notes import notes_of

from .conftest import PLAN, flip_some, retoken, write


def paired(pairs):
    """(prompt, position in A, position in B) of every pair."""
    ids = pairs.a.prompts()["prompt_id"].to_pylist()
    prompt = [ids[row] for row in pairs.tokens_a.prompt_N[pairs.row_a]]
    sides = (pairs.tokens_a.position_N[pairs.row_a].tolist(), pairs.tokens_b.position_N[pairs.row_b].tolist())
    return list(zip(prompt, *sides, strict=True))


def test_from_the_first_other_token_on_nothing_pairs(tmp_path, plain):
    changed = {("p000002", 4): 4321, ("p000002", 6): 77, ("p000007", 0): 4321}
    b = write(tmp_path / "b", retoken(changed))
    pairs = pair_traces(plain, b)
    found = paired(pairs)
    assert [position for prompt, position, _ in found if prompt == "p000002"] == [0, 1, 2, 3]
    assert not [1 for prompt, _, _ in found if prompt == "p000007"]
    lost = pairs.unpaired["tokens from the first different token id on"]
    assert lost == plain.num_tokens - len(pairs)
    table = {row["prompt_id"]: row for row in view(pairs, "agreement-prompts").to_pylist()}
    assert (table["p000002"]["parts_at"], table["p000002"]["parts_in"]) == (4, "prefill")
    assert table["p000003"]["parts_at"] is None
    realigned = pair_traces(plain, b, align="realign")
    kept = [position for prompt, position, _ in paired(realigned) if prompt == "p000002"]
    assert kept[:5] == [0, 1, 2, 3, 5]
    assert len(realigned) == plain.num_tokens - len(changed)


def test_generated_tokens_pair_until_they_part(tmp_path):
    def decode(part):
        at = part.tokens.schema.get_field_index("phase")
        phase = ["decode" if p >= 5 else "prefill" for p in part.tokens["position"].to_pylist()]
        part.tokens = part.tokens.set_column(at, "phase", pa.array(phase))
        part.sums.clear()

    def both(part):
        decode(part)
        retoken({("p000001", 6): 4321})(part)

    pairs = pair_traces(write(tmp_path / "a", decode), write(tmp_path / "b", both))
    row = next(r for r in view(pairs, "agreement-prompts").to_pylist() if r["prompt_id"] == "p000001")
    assert (row["tokens"], row["parts_at"], row["parts_in"]) == (6, 6, "decode")


def test_missing_prompts_and_layers_are_told(tmp_path, plain):
    almost = pair_traces(plain, write(tmp_path / "c", plan=replace(PLAN, prompts=23)))
    assert "Left out: 1 prompt only in A." in almost.notes()
    shorter = write(tmp_path / "b", plan=replace(PLAN, layers=2, prompts=10))
    pairs = pair_traces(plain, shorter)
    assert pairs.unpaired["prompts only in A"] == 14
    notes = " ".join(notes_of(view(pairs, "agreement", resamples=10)))
    assert "14 prompts only in A" in notes
    assert "layer 2 (decoder) is only in A" in notes
    assert view(pairs, "agreement", resamples=10)["layer"].to_pylist() == [0, 1]


def test_other_numbers_of_experts_are_an_error_that_names_the_layer(tmp_path, plain):
    other = write(tmp_path / "b", plan=replace(PLAN, experts=12))
    with pytest.raises(BadArgument, match=r"layer 0 .* has 10 experts in A and 12 in B"):
        pair_traces(plain, other)
    with pytest.raises(BadArgument, match="no router in common"):
        pair_traces(plain, write(tmp_path / "c", plan=replace(PLAN, first_layer=7)))


def test_other_parts_and_other_orders_of_prompts_pair_all_the_same(tmp_path, plain):
    """The same texts, written backwards in other parts: what pairs is the prompt, not its row."""
    from moescope.store import TraceWriter
    from moescope.store.write.synthetic import synthetic_parts

    parts = list(synthetic_parts(PLAN))
    with TraceWriter(tmp_path / "b", routers=PLAN.routers(), model={}, prompt_set={}, settings={}) as out:
        for part in reversed(parts):
            out.write(part)
        out.finish()
    pairs = pair_traces(plain, open_trace(tmp_path / "b"))
    assert len(pairs) == plain.num_tokens
    assert set(view(pairs, "agreement", resamples=10)["flip_rate"].to_pylist()) == {0.0}


def test_varying_k_pairs_with_empty_slots(tmp_path, plain):
    varying = write(tmp_path / "b", plan=replace(PLAN, varying_k=True))
    found = pair_traces(plain, varying).compared(1)
    assert found.k_a == 3
    assert 1 < found.k_b < 3
    assert found.flipped_N[(found.ids_b_NJ >= 0).sum(1) < 3].all()


def test_perturbed_inputs_pair_by_parallel_id(tmp_path, plain):
    plan = replace(PLAN, languages=1)
    perturbed = retoken({("p000003", 2): 4321})
    a, b = write(tmp_path / "a", plan=plan), write(tmp_path / "b", perturbed, plan=plan)
    pairs = pair_traces(a, b, pair_by="parallel_id")
    assert len(pairs) == a.num_tokens
    realigned = pair_traces(a, b, pair_by="parallel_id", align="realign")
    assert len(realigned) == a.num_tokens - 1

    longer = write(tmp_path / "c", plan=replace(plan, tokens_per_prompt=20))
    pairs = pair_traces(a, longer, pair_by="parallel_id")
    assert pairs.unpaired["prompts with other positions (compared as sequences only)"] > 0
    assert view(pairs, "agreement-sequences", resamples=10)["prompts"].to_pylist() == [PLAN.prompts] * 3


def test_translations_of_one_text_pair_by_their_language_too(tmp_path, plain):
    """PLAN has each parallel_id once a language."""

    def renamed(part):
        at = part.prompts.schema.get_field_index("prompt_id")
        names = [f"other {name}" for name in part.prompts["prompt_id"].to_pylist()]
        part.prompts = part.prompts.set_column(at, "prompt_id", pa.array(names))

    b = write(tmp_path / "b", renamed)
    pairs = pair_traces(plain, b, pair_by="parallel_id")
    ids = [trace.prompts()["prompt_id"].to_pylist() for trace in (plain, b)]
    assert {(ids[0][row], ids[1][other]) for row, other in pairs.prompts} == {
        (name, f"other {name}") for name in ids[0]
    }
    assert "Prompts are paired by parallel_id and language." in pairs.notes()
    one_language = write(tmp_path / "c", plan=replace(PLAN, languages=1))
    with pytest.raises(BadArgument, match=r"'p' and language"):
        pair_traces(same_language_twice(tmp_path / "d"), one_language, pair_by="parallel_id")


def same_language_twice(path):
    def change(part):
        at = part.prompts.schema.get_field_index("parallel_id")
        ids = pa.array(["p"] * part.prompts.num_rows)
        part.prompts = part.prompts.set_column(at, "parallel_id", ids)

    return write(path, change)


def test_two_tokenizers_pair_by_characters(tmp_path):
    def spelled(pieces):
        def change(part):
            position = part.tokens["position"].to_pylist()
            token = [pieces[p - 1] if 0 < p <= len(pieces) else "" for p in position]
            at = part.tokens.schema.get_field_index("token")
            part.tokens = part.tokens.set_column(at, "token", pa.array(token, pa.string()))

        return change

    plan = replace(PLAN, prompts=1)
    a = write(tmp_path / "a", spelled(["un", "lucky", " day"]), plan=plan)
    b = write(tmp_path / "b", spelled([" un", "luck", "y", " day"]), plan=plan)
    pairs = pair_traces(a, b, align="characters")
    assert [(one, two) for _, one, two in paired(pairs)] == [(1, 1), (3, 4)]
    assert "by the characters" in " ".join(pairs.notes())
    other = write(tmp_path / "c", spelled([" un", "happy", " day"]), plan=plan)
    assert pair_traces(a, other, align="characters").unpaired["prompts whose tokens spell another text"] == 1


def test_a_damaged_part_leaves_its_prompts_out_and_says_so(tmp_path, plain):
    path = tmp_path / "damaged"
    b = write(path, flip_some)
    part = sorted((path / "events").iterdir())[1]
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 0xFF
    part.write_bytes(bytes(data))
    pairs = pair_traces(plain, open_trace(path))
    with pytest.warns(UserWarning, match="left out"):
        table = view(pairs, "agreement", resamples=10)
    assert pairs.b.problems
    assert any(note.startswith("Left out of B") for note in notes_of(table))
    assert any("prompts only in A" in note for note in notes_of(table))
    for part in (path / "tokens").iterdir():
        part.write_bytes(b"not Parquet")
    with pytest.raises(
        BadArgument, match=r"no prompt in common by prompt_id; B is damaged \(0 of its \d+ parts"
    ):
        pair_traces(plain, open_trace(path))
    whole = pair_traces(
        plain, open_trace(shutil.copytree(plain.url.removeprefix("file://"), tmp_path / "copy"))
    )
    assert len(pairs) < len(whole)
    left = {row["prompt_id"] for row in view(pairs, "agreement-prompts").to_pylist()}
    assert left == set(pairs.b.prompts()["prompt_id"].to_pylist())
    assert 0 < len(left) < b.num_prompts == PLAN.prompts


def test_manifests_say_what_differs(tmp_path, plain):
    other = write(
        tmp_path / "b", model={"name": "synthetic", "dtype": "bfloat16"}, settings={"batch_tokens": 16}
    )
    rows = {row["what"]: (row["a"], row["b"]) for row in manifest_differences(plain, other).to_pylist()}
    assert rows == {"model.dtype": (None, "bfloat16"), "settings.batch_tokens": (None, "16")}
    assert manifest_differences(plain, plain).num_rows == 0


def test_ways_to_pair_are_checked(plain):
    with pytest.raises(BadArgument, match="prompt_id, parallel_id"):
        pair_traces(plain, plain, pair_by="text")  # pyright: ignore[reportArgumentType]
