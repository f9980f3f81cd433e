"""The build scripts of the sample model, in miniature, from nothing to a scored model."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from moescope.store import open_trace

BUILD = Path(__file__).parents[2] / "sample_data" / "build"
MODULES = ("recipe", "corpus", "tokenizer", "fast_experts", "muon", "train", "scoring", "measures",
           "evaluate", "prompts", "readme", "record_trace")  # fmt: skip


@pytest.fixture(scope="module")
def build():
    """The scripts as modules; they import one another by bare name, as when run from their folder."""
    sys.path.insert(0, str(BUILD))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(BUILD))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def made(build, tmp_path_factory):
    """Everything the miniature build writes, made by the commands that the README names."""
    work = tmp_path_factory.mktemp("sample")
    steps = {"corpus": [], "tokenizer": [], "train": ["--threads", "1"], "prompts": ["--out", str(work)],
             "evaluate": ["--count", "20", "--out", str(work / "evaluation.json")]}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, more in steps.items():
            patch.setattr(sys, "argv", [name, "--mini", "--work", str(work), *more])
            getattr(build, name).main()
    return work


def test_text_for_other_systems_is_left_out(build):
    markup = (
        'Press <span class="k"><span id="a" class="switchinline"><span hidden="true" id="m" class="MAC">'
        '<span class="key">Command</span></span><span hidden="true" id="d"><span>Ctrl</span></span>'
        "</span></span>+C &amp; go."
    )
    assert build.corpus.plain_text(markup) == "Press Ctrl+C & go."


@pytest.mark.parametrize(
    ("text", "language", "english"),
    [
        ("Select the cell that contains the value of this row", "de", True),
        ("Wählen Sie die Zelle mit dem Wert aus, to be sure", "de", False),
        ("Opens the dialog", "ja", True),
        ("Math の数式", "ja", False),
        ("Calc", "ru", False),
    ],
)
def test_left_over_english_is_told_from_translations(build, text, language, english):
    assert build.corpus.reads_as_english(text, language) is english


def test_nothing_held_out_is_trained_on(build, made):
    corpus = pd.read_parquet(made / "corpus.parquet")
    unseen, seen = corpus[corpus["held_out"]], corpus[~corpus["held_out"]]
    assert 0.08 < len(unseen) / len(corpus) < 0.25
    assert not set(unseen["english"]) & set(seen["english"])
    for language in ("en", "ru", "ja"):
        assert not set(unseen[unseen["language"] == language]["text"]) & set(
            seen[seen["language"] == language]["text"]
        )


def test_a_text_that_another_key_holds_out_is_not_trained_on(build):
    held, trained = (
        next(w for w in map(str, range(1000)) if build.corpus.is_held_out(w, 0.5) is side)
        for side in (True, False)
    )
    rows = [("1", "de", "Gleich", held), ("2", "de", "Gleich", trained), ("3", "de", "Anders", trained)]
    table = build.corpus.split(pd.DataFrame(rows, columns=["key", "language", "text", "english"]), 0.5)
    assert table[["key", "held_out"]].to_numpy().tolist() == [["1", True], ["3", False]]


def test_untranslated_segments_are_dropped(made):
    corpus = pd.read_parquet(made / "corpus.parquet")
    foreign = corpus[corpus["language"] != "en"]
    assert not any(foreign["text"] == foreign["english"])
    assert not any(corpus.duplicated(["language", "text"]))


def test_tokens_decode_to_the_corpus(made):
    corpus = pd.read_parquet(made / "corpus.parquet")
    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer")
    tokens = np.load(made / "tokens.npz")
    for split in ("train", "held_out"):
        pieces = np.split(tokens[f"{split}_ids"], tokens[f"{split}_starts"][1:-1])
        assert all(piece[0] == tokenizer.eos_token_id and (piece[1:] != piece[0]).all() for piece in pieces)
        texts = tokenizer.batch_decode([piece[1:] for piece in pieces])
        assert texts == corpus["text"].iloc[tokens[f"{split}_rows"]].tolist()


@given(text=st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_tokenizer_loses_nothing(made, text):
    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer")
    text = text.replace("<|endoftext|>", "")
    assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_stream_balances_languages_by_the_square_root(build, made):
    total = 60_000
    stream = build.train.token_stream(made, total, seed=1)
    tokens = np.load(made / "tokens.npz")
    language = pd.read_parquet(made / "corpus.parquet")["language"].to_numpy()[tokens["train_rows"]]
    pieces = np.split(tokens["train_ids"], tokens["train_starts"][1:-1])
    owner = {piece.tobytes(): who for piece, who in zip(pieces, language, strict=True)}
    bounds = np.flatnonzero(stream == 0)
    drawn, size = dict.fromkeys(("en", "ru", "ja"), 0), dict.fromkeys(("en", "ru", "ja"), 0)
    for piece in np.split(stream, bounds[1:])[:-1]:
        drawn[owner[piece.tobytes()]] += len(piece)
    for who, length in zip(language, np.diff(tokens["train_starts"]), strict=True):
        size[who] += length
    roots = {who: np.sqrt(size[who]) for who in size}
    for who in drawn:
        assert drawn[who] / len(stream) == pytest.approx(roots[who] / sum(roots.values()), abs=0.02)


def mini_model(build, *, layers=2, experts=4):
    shape = dataclasses.replace(build.recipe.MINI.model, layers=layers, experts=experts)
    return build.train.new_model(dataclasses.replace(build.recipe.MINI, model=shape))


def test_sorted_experts_equal_transformers_own(build):
    """Values and all gradients, with more experts than the tokens can reach."""
    model, gradients = mini_model(build, experts=32), []
    ids = torch.randint(0, 400, (1, 9))
    for kind in ("eager", "sorted"):
        model.set_experts_implementation("eager") if kind == "eager" else build.fast_experts.use_for(model)
        model.zero_grad()
        hidden = model.model(ids, use_cache=False).last_hidden_state
        (hidden * torch.linspace(-1, 1, hidden.shape[-1])).square().sum().backward()
        gradients.append({"hidden": hidden.detach()} | {n: p.grad.clone() for n, p in model.named_parameters()
                                                        if p.grad is not None})  # fmt: skip
    eager, own = gradients
    assert eager.keys() == own.keys()
    assert any("gate_up_proj" in name for name in own)
    for name in eager:
        torch.testing.assert_close(own[name], eager[name], rtol=1e-4, atol=1e-5)


def test_fused_cross_entropy_equals_torch(build):
    torch.manual_seed(0)
    results = []
    hidden, head, targets = torch.randn(600, 16), torch.randn(50, 16), torch.randint(0, 50, (600,))
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = (build.train.FusedCrossEntropy.apply(h, w, targets) if fused
                else torch.nn.functional.cross_entropy(h @ w.T, targets))  # fmt: skip
        (3 * loss).backward()
        results.append((loss.detach(), h.grad, w.grad))
    torch.testing.assert_close(*results)


def test_balance_loss_sees_layers_that_cancel_out(build):
    """Two layers that each use half of the experts look even when pooled; they must not."""
    left = torch.tensor([[9.0, 8.0, 0.0, 0.0]]).expand(10, 4)
    balance, z, chosen = build.train.router_losses((left, left.flip(1)), 2)
    assert balance.item() == pytest.approx(2.0, abs=1e-2)
    assert z.item() == pytest.approx(float(torch.logsumexp(left[0], 0)) ** 2)
    assert chosen.tolist() == [[10, 10, 0, 0], [0, 0, 10, 10]]
    assert build.train.router_losses((torch.zeros(10, 4),), 2)[0].item() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 24, 8), (1, 16, 16)])
def test_muon_update_is_nearly_the_polar_factor(build, shape):
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    update = build.muon.orthogonalize(stack)
    u, _, vh = torch.linalg.svd(stack, full_matrices=False)
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.4
    assert singular.max() < 1.3
    cosine = (update * (u @ vh)).sum() / update.norm() / (u @ vh).norm()
    assert cosine > 0.95


def test_training_learns(build, made):
    losses = pd.read_csv(made / "train_log.csv", header=None)[2]
    assert losses.iloc[-5:].mean() < losses.iloc[:5].mean() - 0.5


def test_a_stopped_training_goes_on_exactly(build, made, tmp_path):
    """Stopped after every step, and in one piece: the same weights to the last bit."""
    mini = build.recipe.MINI
    recipe = dataclasses.replace(mini, training=dataclasses.replace(mini.training, steps=5))
    ends = []
    for name, stops in (("whole", 0), ("pieces", 3)):
        work = tmp_path / name
        work.mkdir()
        for file in ("corpus.parquet", "tokens.npz"):
            (work / file).symlink_to(made / file)
        for number in range(stops):
            assert build.train.train(recipe, work, minutes=0).step == number + 1
        run = build.train.train(recipe, work)
        assert run.step == 5
        ends.append(run.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_saved_model_is_an_ordinary_one(build, made):
    config = json.loads((made / "model" / "config.json").read_text())
    assert config["model_type"] == "olmoe"
    assert not any("implementation" in key for key in config)
    model = AutoModelForCausalLM.from_pretrained(made / "model", dtype=torch.float32)
    state = torch.load(made / "checkpoint.pt", weights_only=True)["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name].bfloat16().float(), rtol=0, atol=0)


@pytest.fixture(scope="module")
def trained(made):
    return AutoModelForCausalLM.from_pretrained(made / "model", dtype=torch.float32)


def test_scores_equal_the_model_asked_one_text_at_a_time(build, made, trained):
    texts = build.measures.Texts.load(made, "held_out").sample(8, 0)
    scores = build.scoring.score(trained, texts.ids, batch_tokens=100)
    for i, ids in enumerate(texts.ids):
        row = torch.from_numpy(ids.astype(np.int64))[None]
        output = trained(row, labels=row, output_router_logits=False)
        assert scores.nats[i] / scores.tokens[i] == pytest.approx(output.loss.item(), rel=1e-4)
        logits = trained.model(row, output_router_logits=True).router_logits
        for layer, layer_logits in enumerate(logits):
            p = layer_logits.softmax(-1)[1:]
            np.testing.assert_allclose(scores.probability[i, layer], p.mean(0).detach(), atol=1e-5)
            assert scores.chosen[i, layer].sum() == 2 * scores.tokens[i]


def test_experts_that_are_off_are_never_chosen_and_come_back(build, made, trained):
    texts = build.measures.Texts.load(made, "held_out").sample(5, 0)
    before = build.scoring.score(trained, texts.ids)
    with build.scoring.switched_off(trained, [(0, 1), (0, 3), (1, 2)]):
        off = build.scoring.score(trained, texts.ids)
    assert off.chosen[:, 0, [1, 3]].sum() == off.chosen[:, 1, 2].sum() == 0
    assert (off.chosen.sum(axis=2) == before.chosen.sum(axis=2)).all()
    assert (build.scoring.score(trained, texts.ids).nats == before.nats).all()


def test_most_specific_experts_by_hand(build):
    shares = {"ja": np.array([[0.9, 0.1], [0.5, 0.5]]), "en": np.array([[0.2, 0.8], [0.4, 0.6]])}
    assert build.measures.most_specific(shares, "ja", 2) == [(0, 0), (1, 0)]
    assert build.measures.most_specific(shares, "en", 1) == [(0, 1)]


def test_evaluation_is_complete(made):
    result = json.loads((made / "evaluation.json").read_text())
    for part in ("bits_per_byte", "xz", "untrained", "divergence_from_english"):
        assert list(result[part]) == ["en", "ru", "ja"]
    assert all(result["bits_per_byte"][who] < result["untrained"][who] for who in ("en", "ru", "ja"))
    assert result["divergence_from_english"]["en"] == [0.0, 0.0]
    np.testing.assert_allclose(np.sum(result["load"], axis=1), 1, atol=1e-3)


def test_prompt_sets_are_well_formed(made):
    seen = pd.read_parquet(made / "corpus.parquet").query("not held_out")
    for name in ("udhr", "help_parallel", "contrast"):
        table = pd.read_csv(made / f"{name}.csv", dtype=str, keep_default_na=False)
        assert table["id"].is_unique
        assert {len(set(group["language"])) for _, group in table.groupby("parallel_id")} == {3}
        assert not set(table["text"]) & set(seen["text"])
    contrast = pd.read_csv(made / "contrast.csv")
    assert len({len(part) for _, part in contrast.groupby(["language", "group"])}) == 1


def test_the_recorded_trace_holds_every_prompt(build, made):
    build.record_trace.record(made, "trace")
    trace = open_trace(made / "trace")
    prompts = pd.read_csv(made / "udhr.csv")
    assert sorted(trace.prompts().column("prompt_id").to_pylist()) == sorted(prompts["id"])
    assert trace.num_events == 2 * trace.num_tokens
    assert str(made) not in (made / "trace" / "trace.json").read_text()


def test_pairs_are_of_similar_length_and_used_once(build):
    pairs = build.prompts.pair_by_length(
        ["a" * 10, "b" * 20, "c" * 90], ["x" * 22, "y" * 100, "z" * 21, "w" * 9]
    )
    assert sorted(map(sorted, pairs)) == [["a" * 10, "w" * 9], ["b" * 20, "x" * 22], ["c" * 90, "y" * 100]]


def test_articles_that_do_not_line_up_are_refused(build, monkeypatch, tmp_path):
    toy = build.prompts.toy_declaration
    page = {"ja": lambda text: text.replace("<p>", "<p>x</p><p>", 1)}
    monkeypatch.setattr(build.prompts, "toy_declaration", lambda who: page.get(who, str)(toy(who)))
    with pytest.raises(ValueError, match="ja: its articles"):
        build.prompts.udhr(build.recipe.MINI, tmp_path, True)
