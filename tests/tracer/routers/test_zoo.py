"""The zoo itself: it misses no architecture, its models route for real, and its two references agree."""

import re
import warnings

import pytest
import torch
import transformers
import zoo
from zoo_expected import Expected, expected
from zoo_witness import witness

KNOWN = {
    "afmoe", "aria", "dbrx", "deepseek_v2", "deepseek_v3", "deepseek_v4", "diffusion_gemma", "doge",
    "dots1", "ernie4_5_moe", "ernie4_5_vl_moe", "flex_olmo", "gemma4", "glm4_moe", "gpt_oss",
    "granitemoe", "granitemoehybrid", "hunyuan_v1_moe", "inkling", "jamba", "jetmoe", "kimi_linear",
    "lfm2_moe", "llama4", "longcat_flash", "mimo_v2_flash", "minimax", "mixtral", "nemotron_h",
    "nllb_moe", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe", "qwen3_moe", "qwen3_next",
    "qwen3_omni_moe", "qwen3_vl_moe", "switch_transformers", "vitpose_backbone", "zaya",
}  # fmt: skip

MISEXECUTED = {
    "nllb_moe": "transformers 5.23 runs experts 1 and 0 of a layer whichever the router chose: its experts "
    "take the 0/1 mask of the choice for expert ids"
}
"""Families whose experts don't execute the decision they get."""

FAMILIES = zoo.discover()


def test_discovery_finds_what_is_known_and_no_dense_model():
    folders = set(zoo.moe_folders())
    assert folders >= KNOWN
    assert len(folders) >= 70
    assert not folders & {"bamba", "llama", "d_fine", "granite_docling", "gpt2", "auto"}


def test_discovery_misses_no_configuration_that_counts_experts():
    counts = re.compile(r"^    (\w*num_experts|num_local_experts|n_routed_experts)\s*:", re.MULTILINE)
    configs = zoo.MODELS.glob("*/configuration_*.py")
    folders = {path.parent.name for path in configs if counts.search(path.read_text(encoding="utf-8"))}
    assert folders <= set(zoo.moe_folders())


def test_every_class_of_experts_is_in_some_model_that_is_built():
    built = {
        type(module).__name__
        for family in FAMILIES
        if family.name not in zoo.NOT_RUN
        for module in zoo.build(family).modules()
    }
    wanted = {name for classes in zoo.moe_folders().values() for name in classes if name.endswith("Experts")}
    assert wanted <= built


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name not in zoo.NOT_RUN], ids=str)
def test_built_model_routes_as_configured_and_executes_what_is_recorded(family: zoo.Family):
    model = zoo.build(family)
    routers = expected(family, model.config)
    with warnings.catch_warnings(), torch.no_grad(), witness(model) as seen:
        warnings.simplefilter("ignore")
        output = model(**zoo.inputs(family, model.config, lengths=(9, 5)))
    assert all(torch.isfinite(x).all() for x in output.values() if isinstance(x, torch.Tensor))
    text = [router for router in routers if router.stream != "vision"]
    assert len({execution.path for execution in seen}) == len(text)
    for execution in seen:
        _uses_its_experts(execution.ids, execution.weights, routers)
        if execution.one_expert is not None and family.folder not in MISEXECUTED:
            torch.testing.assert_close(execution.output, execution.reconstructed(), rtol=2e-4, atol=2e-4)


def _uses_its_experts(ids_TK: torch.Tensor, weights_TK: torch.Tensor, routers: list[Expected]) -> None:
    chosen = ids_TK[ids_TK >= 0]
    assert ids_TK.shape[-1] in {router.top_k for router in routers}
    assert chosen.max() < max(router.num_experts for router in routers)
    assert len(chosen.unique()) > 1, "all tokens make the same choice"
    assert (weights_TK[ids_TK >= 0] >= 0).all()
    assert torch.isfinite(weights_TK).all()


def test_a_decision_that_is_not_executed_is_noticed():
    """NLLB-MoE as installed; if this fails, its experts are repaired: take it out of MISEXECUTED."""
    (family,) = (family for family in FAMILIES if family.folder == "nllb_moe")
    model = zoo.build(family)
    with torch.no_grad(), witness(model) as seen:
        model(**zoo.inputs(family, model.config))
    errors = [(run.reconstructed() - run.output).abs().max() for run in seen if run.output is not None]
    assert max(errors) > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
def test_inputs_have_the_lengths_and_the_side_asked_for(side: str):
    (family,) = (family for family in FAMILIES if family.name == "mixtral")
    batch = zoo.inputs(family, zoo.tiny_config(family.config_class), lengths=(6, 2), side=side)
    assert batch["attention_mask"].sum(1).tolist() == [6, 2]
    assert batch["attention_mask"][1, 0 if side == "right" else -1] == 1
    assert (batch["input_ids"] > 0).eq(batch["attention_mask"].bool()).all()


def test_same_seed_same_model():
    (family,) = (family for family in FAMILIES if family.name == "olmoe")
    before = torch.random.get_rng_state()
    one, two, other = (zoo.build(family, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def _quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)
