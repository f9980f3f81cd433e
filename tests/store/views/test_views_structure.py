"""Structure views against loops over the events of a small trace."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from events_by_hand import rows_of, sequences

from moescope.kernels.counting import load_imbalance
from moescope.kernels.structure import explained, rare_token_baseline, specialisation_spread
from moescope.store import StoreError, Trace, open_trace
from moescope.store.errors import BadArgument, UnknownColumn
from moescope.store.notes import notes_of

LAYER = 1


@pytest.fixture
def rows(shared_trace: Trace) -> list[dict]:
    return rows_of(shared_trace, LAYER)


def first(row: dict) -> int:
    return row["experts"][0]


def test_windows_and_srp(shared_trace: Trace, rows: list[dict]) -> None:
    for found in shared_trace.view("local-consistency", layers=LAYER, m="3,20").to_pylist():
        m, uses, prompts, everyone = found["m"], [], set(), set()
        for phase, prompt, experts in sequences(rows):
            assert phase == found["phase"]
            everyone.add(prompt)
            if len(experts) >= m:
                prompts.add(prompt)
            for start in range(len(experts) - m + 1):
                window = Counter(e for token in experts[start : start + m] for e in token)
                uses += [window[e] for e in range(12)]
        total = sum(uses)
        best = max(
            2 * sum(f for f in uses if f >= alpha) / (m * sum(f >= alpha for f in uses) + total)
            for alpha in range(1, m + 1)
        )
        assert found["srp"] == pytest.approx(best)
        assert found["low"] <= found["srp"] <= found["high"]
        assert found["windows"] == len(uses) // 12
        assert (found["prompts"], found["short"]) == (len(prompts), len(everyone) - len(prompts))
        assert found["short"] > 0 or m == 3
        assert found["even"] < found["independent"] < 1
    longer = shared_trace.view("local-consistency", layers=LAYER, m="1,500").to_pylist()
    assert [(row["m"], row["srp"], row["windows"] > 0) for row in longer] == [
        (1, 1, True),
        (500, None, False),
    ]


def lru(experts: list[list[int]], size: int) -> int:
    """A cache as one would write it: hits are judged before the token, and a free slot is a hit."""
    cache: list[int] = []
    seen: set[int] = set()
    hits = 0
    for token in experts:
        before = set(cache)
        for expert in token:
            hits += expert in before or (expert not in seen and len(cache) < size)
            if expert in cache:
                cache.remove(expert)
            elif len(cache) == size:
                cache.pop(0)
            cache.append(expert)
            seen.add(expert)
    return hits


def test_cache_hits(shared_trace: Trace, rows: list[dict]) -> None:
    table = shared_trace.view("cache-hits", layers=LAYER, sizes="1,4,7,12").to_pylist()
    found = {(row["policy"], row["size"]): row for row in table}
    accesses = sum(len(row["experts"]) for row in rows)
    assert {row["accesses"] for row in table} == {accesses}
    uses = Counter(e for row in rows for e in row["experts"])
    for size in (1, 4, 7, 12):
        hits = sum(lru(experts, size) for _, _, experts in sequences(rows))
        assert found["lru", size]["hits"] == hits
        assert found["fixed", size]["hits"] == sum(n for _, n in uses.most_common(size))
        for policy in ("lru", "lfu", "belady", "segment"):
            row = found[policy, size]
            assert row["hit_rate"] == pytest.approx(row["hits"] / accesses)
            assert row["low"] <= row["hit_rate"] <= row["high"]
            assert row["hit_rate"] <= found["belady", size]["hit_rate"]
        assert found["belady", 12]["hit_rate"] == 1
    assert len(shared_trace.view("cache-hits", layers=LAYER, policies="lru")) == 12


def test_a_cache_starts_anew_in_each_phase_and_where_a_token_is_left_out(shared_trace: Trace) -> None:
    whole = shared_trace.view("cache-hits", layers=LAYER, sizes="12", special=False).to_pylist()
    assert all(row["hit_rate"] == 1 for row in whole)
    assert {row["phase"] for row in whole} == {"prefill"}


def test_what_explains_the_first_expert(shared_trace: Trace, rows: list[dict]) -> None:
    found = {
        row["label"]: row
        for row in shared_trace.view("explained", by="language").to_pylist()
        if row["layer"] == LAYER
    }
    before = {(row["prompt_id"], row["position"]): first(row) for row in rows_of(shared_trace, 0)}
    following = {(row["prompt_id"], row["position"] - 1): row["token"]["token_id"] for row in rows}
    labels = {
        "token": [row["token"]["token_id"] for row in rows],
        "next token": [following.get((row["prompt_id"], row["position"]), -1) for row in rows],
        "position": [math.frexp(row["position"])[1] for row in rows],
        "layer before": [before[row["prompt_id"], row["position"]] for row in rows],
    }
    for name, values in labels.items():
        expected = explained(values, [first(row) for row in rows])
        assert found[name]["share"] == pytest.approx(expected.share)
        assert found[name]["information"] == pytest.approx(expected.information)
        assert found[name]["low"] < found[name]["share"] < found[name]["high"]
        assert found[name]["values"] == len({value for value in values if value >= 0})
    assert found["language"]["information"] > found["language"]["expected"] > 0
    assert found["language"]["values"] == 4


def test_points_come_without_intervals_and_a_window_changes_no_number(shared_trace_path: Path) -> None:
    whole = open_trace(shared_trace_path).view("explained", layers="0:2").to_pylist()
    trace = open_trace(shared_trace_path)
    points = trace.view("explained", layers="0:2", intervals=False).to_pylist()
    assert [row | {"low": None, "high": None} for row in whole] == points
    assert all(row["low"] < row["share"] < row["high"] for row in whole)
    # A window has the layer that really is before its first one.
    for layers in ("0:2", "0,2", "1:2"):
        asked, fresh = (t.view("explained", layers=layers) for t in (trace, open_trace(shared_trace_path)))
        assert asked.equals(fresh)
        behind = [row["layer"] for row in asked.to_pylist() if row["label"] == "layer before"]
        assert behind == {"0:2": [1, 2], "0,2": [2], "1:2": [1, 2]}[layers]
        asked_of = {(row["layer"], row["label"]): row for row in asked.to_pylist()}
        assert asked_of.items() <= {(row["layer"], row["label"]): row for row in whole}.items()


def test_specialisation_by_a_tag(shared_trace: Trace) -> None:
    load = shared_trace.view("load", by="language", layer=LAYER).to_pylist()
    share = {(row["language"], row["expert"]): row["share"] for row in load}
    for row in shared_trace.view("specialisation", by="language", layer=LAYER).to_pylist():
        rates = [share[language, row["expert"]] for language in ("de", "en", "es", "fr")]
        assert row["spread"] == pytest.approx(specialisation_spread(np.array(rates)[:, None])[0])
        assert row["most_share"] == pytest.approx(max(rates)) == share[row["most"], row["expert"]]
        assert row["least_share"] == pytest.approx(min(rates)) == share[row["least"], row["expert"]]
        assert row["chance"] == 3 / 12
    for row in shared_trace.view("expert-shares", layer=LAYER, expert=4, by="language").to_pylist():
        assert row["share"] == pytest.approx(share[row["language"], 4])
        assert row["low"] <= row["share"] <= row["high"]
        assert row["prompts"] == 12
    table = shared_trace.view("tag-experts", by="language", value="fr", layer=LAYER, limit=0).to_pylist()
    rest = shared_trace.view("load", where={"language": ["de", "en", "es"]}, layer=LAYER)["share"].to_pylist()
    for row in table:
        assert row["share"] == pytest.approx(share["fr", row["expert"]])
        assert row["elsewhere"] == pytest.approx(rest[row["expert"]])
        assert row["lift"] == pytest.approx(row["share"] / row["elsewhere"])
    differences = [row["difference"] for row in table]
    assert differences == sorted(differences, reverse=True)
    with pytest.raises(UnknownColumn, match="no prompt has language 'xx'; there is: de, en"):
        shared_trace.view("tag-experts", by="language", value="xx")
    with pytest.raises(UnknownColumn, match="colour"):
        shared_trace.view("expert-shares", layer=LAYER, expert=4, by="colour")


def test_information_of_a_tag_beside_exchanged_tags(shared_trace: Trace) -> None:
    table = shared_trace.view("tag-information", by="language", permutations=60)
    assert all(row["information"] > row["high"] > row["chance"] for row in table.to_pylist())
    assert all(row["p_value"] == pytest.approx(1 / 61) for row in table.to_pylist())
    meaningless = shared_trace.view("tag-information", by="seen", permutations=60).to_pylist()
    assert np.mean([row["q_value"] for row in meaningless]) > 0.1


@pytest.mark.parametrize("of", ["input", "next"])
def test_vocabulary(shared_trace: Trace, rows: list[dict], of: str) -> None:
    following = {(row["prompt_id"], row["position"] - 1): row["token"]["token_id"] for row in rows}
    uses, occurrences, prompts = Counter(), Counter(), defaultdict(set)
    for row in rows:
        place = row["prompt_id"], row["position"]
        token = row["token"]["token_id"] if of == "input" else following.get(place)
        if token is None:
            continue
        occurrences[token] += 1
        prompts[token].add(row["prompt_id"])
        uses.update((token, expert) for expert in row["experts"])
    layer_share = Counter(e for row in rows for e in row["experts"])
    table = shared_trace.view("vocabulary", layer=LAYER, of=of, least=6, limit=0).to_pylist()
    assert {row["token_id"] for row in table} == {t for t, n in occurrences.items() if n >= 6}
    for row in table:
        token = row["token_id"]
        assert row["share"] == max(uses[token, e] for e in range(12)) / occurrences[token]
        assert row["share"] == uses[token, row["expert"]] / occurrences[token]
        assert (row["occurrences"], row["prompts"]) == (occurrences[token], len(prompts[token]))
        assert row["layer_share"] == pytest.approx(layer_share[row["expert"]] / len(rows))
    luck = rare_token_baseline(table[0]["occurrences"], [layer_share[e] / len(rows) for e in range(12)])
    assert (table[0]["luck"], table[0]["luck_high"]) == pytest.approx(tuple(luck))
    shares = [row["share"] for row in table]
    assert shares == sorted(shares, reverse=True)
    of_one = shared_trace.view("vocabulary", layer=LAYER, of=of, expert=3, limit=4).to_pylist()
    assert all(row["share"] == uses[row["token_id"], 3] / occurrences[row["token_id"]] for row in of_one)


def test_experts_of_a_token(shared_trace: Trace, rows: list[dict]) -> None:
    mine = [row for row in rows if row["token"]["token"] == " t1"]
    uses = Counter(e for row in mine for e in row["experts"])
    by_text = shared_trace.view("token-experts", token="t1", layer=LAYER, per_layer=12).to_pylist()
    assert {row["expert"]: row["share"] for row in by_text} == pytest.approx(
        {e: n / len(mine) for e, n in uses.items()}
    )
    by_id = shared_trace.view("token-experts", token_id=1, layer=LAYER, per_layer=12).to_pylist()
    assert by_id == by_text
    assert {row["token"] for row in by_text} == {" t1"}
    with pytest.raises(UnknownColumn, match="no token of the trace is 'nowhere'"):
        shared_trace.view("token-experts", token="nowhere")
    with pytest.raises(UnknownColumn, match="give token, or token_id"):
        shared_trace.view("token-experts")


def test_paths_and_flows(shared_trace: Trace) -> None:
    layers = [rows_of(shared_trace, layer) for layer in range(3)]
    taken = Counter(tuple(map(first, rows)) for rows in zip(*layers, strict=True))
    total = sum(taken.values())
    table = shared_trace.view("paths", layers="0:2", limit=0).to_pylist()
    assert {tuple(row["experts"]): row["count"] for row in table} == dict(taken)
    marginal = [Counter(map(first, rows)) for rows in layers]
    for row in table[:20]:
        expected = total * math.prod(marginal[i][e] / total for i, e in enumerate(row["experts"]))
        assert row["expected"] == pytest.approx(expected)
        assert row["ratio"] == pytest.approx(row["count"] / expected)
    flows = shared_trace.view("flows", layers="0,2", limit=5).to_pylist()
    pairs = Counter((first(a), first(b)) for a, b in zip(layers[0], layers[2], strict=True))
    assert [row["tokens"] for row in flows[:5]] == sorted(pairs.values(), reverse=True)[:5]
    assert all(pairs[row["from_expert"], row["to_expert"]] == row["tokens"] for row in flows[:5])
    assert flows[5]["from_expert"] is None
    assert sum(row["tokens"] for row in flows) == total
    uses = [Counter(map(first, rows)).most_common() for rows in layers]
    kept = [{e for e, n in used if n > used[4][1]} for used in uses]
    assert all(len(experts) == 4 for experts in kept)  # no tie at the fourth place, which a name would decide
    grouped: Counter[tuple[int | None, ...]] = Counter()
    for path, count in taken.items():
        grouped[tuple(e if e in kept[at] else None for at, e in enumerate(path))] += count
    table = shared_trace.view("path-groups", layers="0:2", most=4, limit=0).to_pylist()
    assert {tuple(row["experts"]): row["count"] for row in table} == dict(grouped)
    share: list[Counter[int | None]] = [
        Counter({e: n for e, n in used if e in kept[at]}) for at, used in enumerate(uses)
    ]
    for own in share:
        own[None] = total - sum(own.values())
    for row in table[:10]:
        expected = total * math.prod(share[at][e] / total for at, e in enumerate(row["experts"]))
        assert row["expected"] == pytest.approx(expected)
    with pytest.raises(StoreError, match="two layers"):
        shared_trace.view("flows", layers="1")


@pytest.mark.parametrize("depth", [1, 2])
def test_repeats(shared_trace: Trace, rows: list[dict], depth: int) -> None:
    pairs = repeated = 0
    for _, _, experts in sequences(rows):
        for before, after in pairwise(experts):
            pairs += 1
            repeated += bool(set(before[:depth]) & set(after[:depth]))
    (found,) = shared_trace.view("repeats", layers=LAYER, depth=depth).to_pylist()
    assert found["repeats"] == pytest.approx(repeated / pairs)
    assert found["pairs"] == pairs
    assert found["even"] == pytest.approx(1 - math.comb(12 - depth, depth) / math.comb(12, depth))
    firsts = Counter(map(first, rows))
    if depth == 1:
        chance = sum((n / len(rows)) ** 2 for n in firsts.values())
        assert found["independent"] == pytest.approx(chance)


def test_neighbours(shared_trace: Trace, rows: list[dict]) -> None:
    mine = {(row["prompt_id"], row["position"]) for row in rows if 5 in row["experts"]}
    table = shared_trace.view("expert-neighbours", layer=LAYER, expert=5, limit=0, least=1).to_pylist()
    for where, layer in (("before", 0), ("same layer", 1), ("after", 2)):
        there = rows_of(shared_trace, layer)
        both = Counter(
            e for row in there if (row["prompt_id"], row["position"]) in mine for e in row["experts"]
        )
        uses = Counter(e for row in there for e in row["experts"])
        if where == "same layer":
            del both[5]
        found = {row["expert"]: row for row in table if row["where"] == where}
        assert {e: row["tokens"] for e, row in found.items()} == dict(both)
        for e, row in found.items():
            assert row["lift"] == pytest.approx(both[e] / len(mine) * len(there) / uses[e])


def test_the_map_of_experts(shared_trace: Trace) -> None:
    table = shared_trace.view("expert-map", by="language")
    load = {(row["layer"], row["expert"]): row for row in shared_trace.view("load").to_pylist()}
    assert len(table) == sum(row["count"] > 0 for row in load.values())
    for row in table.to_pylist():
        expected = load[row["layer"], row["expert"]]
        assert (row["count"], row["tokens"]) == (expected["count"], expected["tokens"])
        assert row["share"] == pytest.approx(expected["share"])
        assert row["load"] == pytest.approx(expected["share"] * 12 / 3)
        assert row["lift"] == pytest.approx(row["most_share"] / row["share"])
    assert np.asarray(table["x"]).var() >= np.asarray(table["y"]).var() > 0
    assert table.equals(shared_trace.view("expert-map", by="language"))
    by_token = shared_trace.view("expert-map", by="token")
    assert by_token["count"].to_pylist() == table["count"].to_pylist()
    few = shared_trace.view("expert-map", by="language", where={"language": ["de", "en"]})
    assert few.num_rows == 0
    assert notes_of(few)[0] == "Only some values of language are selected (2): a map needs 3 or more."


def test_load_over_the_course_of_the_run(shared_trace: Trace) -> None:
    counts = shared_trace.rollup_arrays(LAYER).count
    table = shared_trace.view("load-drift", batches=4, layer=LAYER).to_pylist()
    whole, stretches = table[0], table[1:]
    assert (whole["batch"], whole["moved"]) == (None, 0)
    assert [row["batch"] for row in stretches] == [0, 1, 2, 3]
    assert sum(row["tokens"] for row in stretches) == whole["tokens"]
    assert sum(row["prompts"] for row in stretches) == 48
    for row in stretches:
        of = counts[row["first"] : row["first"] + row["prompts"]].sum(0)
        assert row["max_over_mean"] == pytest.approx(load_imbalance(of)["max_over_mean"])
        assert row["moved"] == pytest.approx(np.abs(of / of.sum() - counts.sum(0) / counts.sum()).sum() / 2)
        assert row["near_dead"] == sum(of * 12 < 0.1 * of.sum()) >= row["dead"]


def test_stretches_without_a_prompt_have_no_number(shared_trace: Trace) -> None:
    three = {"prompt_id": shared_trace.prompts()["prompt_id"].to_pylist()[:3]}
    table = shared_trace.view("load-drift", batches=40, layer=LAYER, where=three).to_pylist()
    assert [row["batch"] for row in table] == [None, 0, 1, 2]
    assert [row["prompts"] for row in table] == [3, 1, 1, 1]


def test_the_prompt_behind_an_imbalance(shared_trace: Trace) -> None:
    arrays = shared_trace.rollup_arrays(LAYER)
    (found,) = shared_trace.view("load-influence", layer=LAYER).to_pylist()
    without = [load_imbalance(np.delete(arrays.count, p, 0).sum(0))["max_over_mean"] for p in range(48)]
    assert (found["low"], found["high"]) == pytest.approx((min(without), max(without)))
    at = shared_trace.prompts()["prompt_id"].to_pylist().index(found["prompt_id"])
    assert found["without"] == pytest.approx(without[at])
    assert abs(found["change"]) == pytest.approx(max(abs(w - found["max_over_mean"]) for w in without))


@pytest.mark.parametrize(
    ("view", "params", "says"),
    [
        ("local-consistency", {"m": "4,x"}, "m is '4,x'"),
        ("local-consistency", {"m": "0"}, "whole numbers from 1 on"),
        ("cache-hits", {"sizes": "-1"}, "sizes is '-1'"),
        ("cache-hits", {"policies": "fifo"}, "policies name 'fifo'; there are: lru"),
        ("cache-hits", {"ahead": 0}, "ahead is 0"),
        ("vocabulary", {"layer": 1, "of": "last"}, "of is 'last'"),
    ],
)
def test_what_the_views_refuse(shared_trace: Trace, view: str, params: dict, says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        shared_trace.view(view, **params)


def test_many_layers_make_no_path(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(prompts=2, tokens_per_prompt=4, layers=17, experts=3, top_k=1, languages=1)
    with pytest.raises(StoreError, match="17 layers are too many"):
        trace.view("paths", layers="0:16")
