"""Every kind of rule in the table is whole: it changes routing, has a neutral form, an opposite or none, a control, and
words in the docs. A row that is only added to the table fails here (and in tests/app/steering/test_rule_places.py)."""

import ast
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_olmoe

from moescope.tracer import Steering, find_routers, record_routing
from moescope.tracer.evaluate.controls import make_controls
from moescope.tracer.steering import profile
from moescope.tracer.steering.read import read_rules
from moescope.tracer.steering.rules import KINDS, is_neutral, opposite

LAYER = 1
ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "steering.md").read_text(encoding="utf-8")
EVERY = pytest.mark.parametrize("name", list(KINDS))


@pytest.fixture(scope="module")
def model():
    return tiny_olmoe()


@pytest.fixture(scope="module")
def spec(model):
    return next(spec for spec in find_routers(model) if spec.layer == LAYER)


def example(name, spec):
    (rule,) = read_rules([{"rule": name, "layers": [LAYER], **KINDS[name].example(spec)}])
    return rule


def decided(model, *rules):
    """Logits of the model, and ids and weights of the steered layer."""
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(Steering(rules).applied(model))
        routing = stack.enter_context(record_routing(model))
        logits = model(input_ids=torch.arange(4, 28).reshape(3, 8)).logits
    weights = routing.weights(LAYER)
    assert weights is not None
    return logits, routing.ids(LAYER), weights


@EVERY
def test_its_example_changes_routing(model, spec, name):
    _, ids, weights = decided(model)
    _, steered_ids, steered_weights = decided(model, example(name, spec))
    same = steered_ids.shape == ids.shape and torch.equal(steered_ids, ids)
    assert not same or not torch.allclose(steered_weights, weights, rtol=1e-3)


@EVERY
def test_it_has_a_neutral_form(model, spec, name):
    rule = example(name, spec)
    still = replace(rule, **KINDS[name].still(spec))
    assert not is_neutral(rule, spec)
    assert is_neutral(still, spec)
    for plain, steered in zip(decided(model), decided(model, still), strict=True):
        assert torch.equal(plain, steered)


@EVERY
def test_its_neutral_form_would_change_nothing_if_it_were_applied(model, spec, name, monkeypatch):
    still = replace(example(name, spec), **KINDS[name].still(spec))
    before = decided(model)
    acting = lambda rules, spec: [rule for rule in rules if rule.acts_in(spec.layer, spec.stream)]  # noqa: E731
    monkeypatch.setattr(profile, "effective", acting)
    logits, ids, weights = decided(model, still)
    assert torch.equal(ids, before[1])
    torch.testing.assert_close(weights, before[2])
    torch.testing.assert_close(logits, before[0])


@EVERY
def test_its_opposite_is_another_rule_that_acts(spec, name):
    rule = example(name, spec).to_json()
    other = opposite(rule)
    if other is None:
        assert KINDS[name].control == "none"
        return
    (read,) = read_rules([other])
    assert read.to_json() != rule
    assert (read.layers, is_neutral(read, spec)) == ((LAYER,), False)


@EVERY
def test_its_random_control_differs_from_it_where_it_has_one(model, spec, name):
    steering = Steering([example(name, spec)])
    controls, notes = make_controls(steering, find_routers(model), draws=1)
    drawn = [control.steering.to_json()["rules"] for control in controls if control.kind == "random"]
    if KINDS[name].control == "none":
        assert not drawn
        assert any("'random'" in note for note in notes)
    else:
        assert drawn
        assert drawn[0] != steering.to_json()["rules"]


@EVERY
def test_it_takes_an_amount_as_its_row_says(spec, name):
    kind, rule = KINDS[name], example(name, spec)
    assert bool(kind.amount) == (kind.number is not None) == (rule.amount is not None)


@EVERY
def test_it_masks_forces_and_empties_as_its_row_says(model, spec, name):
    kind, rule = KINDS[name], example(name, spec)
    _, ids, _ = decided(model, rule)
    assert bool((ids < 0).any()) == kind.empties
    named = set(range(spec.num_experts) if rule.experts is None else rule.experts)
    chosen = set(ids[ids >= 0].tolist())
    if kind.masks:
        assert not chosen & (named if kind.masks == "named" else set(range(spec.num_experts)) - named)
    if kind.forces:
        assert all((ids == expert).any(-1).all() for expert in named)


@EVERY
def test_the_docs_have_it(name):
    row = next((line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")), "")
    kind = KINDS[name]
    assert f"| {kind.point} | {kind.summary} |" in row
    for word in (*kind.amount, *kind.options):
        assert f"`{word}`" in row


def test_a_row_without_arithmetic_is_noticed(model, spec, monkeypatch):
    monkeypatch.setitem(KINDS, "frozen", KINDS["off"])
    with pytest.raises(KeyError, match="frozen"):
        test_its_example_changes_routing(model, spec, "frozen")
    with pytest.raises(AssertionError):
        test_the_docs_have_it("frozen")


def names_of_rules_compared(tree: ast.AST) -> Iterator[int]:
    """Lines that compare the name of a rule (`x.rule` or `x["rule"]`) with one of the table."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Match):
            asked, named = (
                [node.subject],
                [pattern for case in node.cases for pattern in ast.walk(case.pattern)],
            )
        elif isinstance(node, ast.Compare):
            asked, named = [node.left], [part for side in node.comparators for part in ast.walk(side)]
        else:
            continue
        texts = {ast.unparse(value) for value in asked}
        words = {part.value for part in named if isinstance(part, ast.Constant)}
        if any(text.endswith((".rule", "['rule']")) for text in texts) and words & set(KINDS):
            yield node.lineno


def test_nothing_but_the_table_knows_rules_by_name():
    assert list(names_of_rules_compared(ast.parse("if rule.rule in ('off', 'x'): pass"))) == [1]
    assert list(names_of_rules_compared(ast.parse("match a['rule']:\n  case 'off': pass"))) == [1]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("app", "tracer")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in names_of_rules_compared(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found
