"""Monet: pairs of rows and columns, computed as a product, masked by row, stored sparsely."""

import torch

from moescope.sample_data.gallery.product_keys import KEYS, TOP, Monet, ProductGate


def test_weights_of_all_pairs_sum_to_the_product_of_the_sums():
    torch.manual_seed(0)
    gate, x = ProductGate(), torch.randn(7, 32)
    _, weights, rows, columns = gate(x)
    torch.testing.assert_close(weights.sum(-1), rows.sum(-1) * columns.sum(-1))


def test_the_factorised_layer_is_the_sum_over_its_chosen_experts():
    torch.manual_seed(0)
    layer, x = Monet(), torch.randn(5, 32)
    expected = torch.zeros_like(x)
    for head in layer.heads:
        ids, weights, _, _ = head(x)
        for t in range(5):
            for expert, weight in zip(ids[t].tolist(), weights[t], strict=True):
                i, j = divmod(expert, KEYS)
                expected[t] += weight * ((x[t] @ layer.inner[i]).relu() @ layer.outer[j])
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-6)


def test_masking_a_row_removes_its_experts_and_no_other():
    torch.manual_seed(0)
    gate, x = ProductGate(), torch.randn(40, 32)
    with torch.no_grad():
        ids, weights, _, _ = gate(x)
        row = int(ids[0, 0]) // KEYS
        gate.masked_rows = [row]
        left_ids, left_weights, _, _ = gate(x)
    hit = 0
    for before, w, after, v in zip(ids, weights, left_ids, left_weights, strict=True):
        kept = {int(e): float(g) for e, g in zip(before, w, strict=True) if int(e) // KEYS != row}
        hit += len(kept) < TOP * TOP
        assert {int(e): float(g) for e, g in zip(after, v, strict=True) if e >= 0} == kept
    assert 0 < hit < 40


def test_nine_thousand_experts_are_stored_sparsely_and_show_their_tokens(made):
    trace = made("product_keys")
    assert {spec.num_experts for spec in trace.routers} == {9216}
    told = trace.manifest.settings["measured"]["tokens_of_experts"]["layer 1, head0"]
    pair, tokens = next(iter(told.items()))
    row, column = (int(part) for part in pair.strip("()").split(","))
    names = {
        (token["prompt_id"], token["position"]): token["token"]
        for prompt in trace.prompts()["prompt_id"].to_pylist()
        for token in trace.tokens(prompt).to_pylist()
    }
    chosen = [
        names[event["prompt_id"], event["position"]]
        for event in trace.events(layer=1, stream="head0").to_pylist()
        if KEYS * row + column in event["experts"]
    ]
    assert {name: chosen.count(name) for name in tokens} == tokens
    load = trace.view("load", layer=1, stream="head0").to_pylist()
    assert load[KEYS * row + column]["count"] == len(chosen) == max(line["count"] for line in load)
