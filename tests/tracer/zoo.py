"""Every routed-expert architecture of the installed transformers, each as a tiny random-weight model.

1. `discover` reads the sources of the installed transformers and names every model whose blocks hold routed
   experts, so that a new release shows up as a new name.
2. `build` makes a tiny instance of one; `zoo_sizes` holds the sizes.
3. `zoo_expected.expected` says from the configuration alone which layers route, over how many experts, how
   many per token; `zoo_witness.witness` records what the experts execute. Neither knows moescope's tracer.
"""

import importlib
import re
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import model_type_to_module_name
from zoo_sizes import DROP, HIDDEN_SIZE, NUM_EXPERTS, OVERRIDES, SIZES, SMALL_IMAGE

MODELS = Path(transformers.__file__).parent / "models"
HEADS = ("ForCausalLM", "ForConditionalGeneration", "ForBlockDiffusion")
LAST_RESORT = ("ForTokenClassification", "ForPoseEstimation", "Backbone", "Model")
COUNTS_EXPERTS = re.compile(r"self\.(num_experts|n_routed_experts|num_local_experts)\b")
CLASS = re.compile(r"^class (\w+)\(([^)]*)\):$", re.MULTILINE)


@dataclass(frozen=True)
class Family:
    """One model class of transformers that can hold routed experts."""

    name: str
    """The folder; with the class name behind it for a folder's second, third, ... model class."""
    folder: str
    """Folder below transformers/models."""
    head: str
    """Name of the model class."""
    experts: tuple[str, ...]
    """Classes of the sources that count experts: what a tracer must know about."""

    @cached_property
    def model_class(self) -> type[transformers.PreTrainedModel]:
        module = importlib.import_module(f"transformers.models.{self.folder}.modeling_{self.folder}")
        return getattr(module, self.head)

    @property
    def config_class(self) -> type[transformers.PreTrainedConfig]:
        config_class = self.model_class.config_class
        assert config_class is not None
        return config_class

    def __str__(self) -> str:
        return self.name


NOT_RUN = {
    "gemma4_assistant": "its configuration forbids experts",
    "qwen3_omni_moe": "has no forward of its own; its thinker and its talker are families of their own here",
}
"""Families that are found in the sources but cannot run a batch, by name, with the reason."""


def discover() -> list[Family]:
    """All families of the installed transformers, in the order of their names."""
    return [family for folder in sorted(moe_folders()) for family in _families(folder)]


@cache
def moe_folders() -> dict[str, tuple[str, ...]]:
    """Folder of transformers/models → its classes that count experts, for every folder that has such classes
    or whose configuration nests the model type of one that has."""
    own: dict[str, tuple[str, ...]] = {}
    for path in sorted(MODELS.glob("*/modeling_*.py")):
        if classes := _expert_classes(path.read_text(encoding="utf-8")):
            own[path.parent.name] = classes
    nested: dict[str, tuple[str, ...]] = {}
    for path in sorted(MODELS.glob("*/configuration_*.py")):
        for model_type in re.findall(r'\bmodel_type="(\w+)"', path.read_text(encoding="utf-8")):
            if classes := own.get(model_type_to_module_name(model_type)):
                nested[path.parent.name] = classes
    return nested | own


def _expert_classes(source: str) -> tuple[str, ...]:
    starts = [*CLASS.finditer(source)]
    ends = [match.start() for match in starts[1:]] + [len(source)]
    return tuple(
        match[1]
        for match, end in zip(starts, ends, strict=True)
        if match[1].endswith("Experts")
        or (COUNTS_EXPERTS.search(source, match.end(), end) and "PreTrainedModel" not in match[2])
    )


def _families(folder: str) -> list[Family]:
    source = (MODELS / folder / f"modeling_{folder}.py").read_text(encoding="utf-8")
    classes = {match[1]: match[2] for match in CLASS.finditer(source)}
    models = {name: bases for name, bases in classes.items() if "PreTrainedModel" not in name}
    heads = [name for name, bases in models.items() if name.endswith(HEADS) or "GenerationMixin" in bases]
    # A renamed class kept under its old name derives from a sibling head: the same model a second time.
    parents = {name: set(re.findall(r"\w+", bases)) for name, bases in models.items()}
    heads = [name for name in heads if not parents[name] & set(heads)]
    heads.sort(key=lambda name: (name.endswith("ForCausalLM"), len(name)))
    by_length = sorted(models, key=len)
    heads = heads or [name for end in LAST_RESORT for name in by_length if name.endswith(end)][:1]
    return [
        Family(folder if head == heads[0] else f"{folder}/{head}", folder, head, moe_folders()[folder])
        for head in heads
    ]


def build(family: Family, seed: int = 0) -> transformers.PreTrainedModel:
    """A tiny model of that family: float32, CPU, eval mode, random weights that spread the routing."""
    config = tiny_config(family.config_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.model_class(config).eval()
        _spread_routing(model)
    return model.requires_grad_(False)


def tiny_config(
    config_class: type[transformers.PreTrainedConfig], **overrides: Any
) -> transformers.PreTrainedConfig:
    """A configuration with the sizes of `zoo_sizes`, nested ones included."""
    nested = getattr(config_class, "sub_configs", {})
    default = config_class() if nested else None
    names = {field.name for field in fields(config_class)} - set(nested)
    special = OVERRIDES.get(config_class.model_type or config_class.__name__, {}) | overrides
    values = {name: value for name, value in SIZES.items() if name in names} | special
    for name in nested:
        if (part := getattr(default, name, None)) is not None:
            values[name] = tiny_config(type(part), **special.get(name, {}))
    return config_class(**{name: value for name, value in values.items() if value is not DROP})


def inputs(
    family: Family,
    config: Any,
    lengths: tuple[int, ...] = (7, 4),
    side: str = "right",
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Keyword arguments of one forward: sequences of these lengths, padded on one side, with their mask."""
    generator = torch.Generator().manual_seed(seed)
    if family.folder.startswith("vitpose"):
        pixels = torch.randn(len(lengths), 3, *SMALL_IMAGE, generator=generator)
        return {"pixel_values": pixels, "dataset_index": torch.arange(len(lengths))}
    ids, mask = _padded(lengths, side, generator)
    if "Talker" in family.head:
        embeds = torch.randn(*ids.shape, HIDDEN_SIZE, generator=generator)
        return {"inputs_embeds": embeds, "talker_input_ids": ids, "attention_mask": mask}
    if family.folder == "diffusion_gemma":
        canvas = torch.randint(5, 100, (len(lengths), config.canvas_length), generator=generator)
        return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": canvas}
    if not config.is_encoder_decoder:
        return {"input_ids": ids, "attention_mask": mask}
    batch = {"input_ids": ids, "attention_mask": mask}
    ids, mask = _padded(tuple(max(2, n - 2) for n in lengths), side, generator)
    return batch | {"decoder_input_ids": ids, "decoder_attention_mask": mask}


def generation(family: Family, model: transformers.PreTrainedModel) -> dict[str, Any] | None:
    """Keyword arguments for three greedy tokens with a cache; None for a model that can't generate alone."""
    if not model.can_generate() or "Talker" in family.head or family.name in NOT_RUN:
        return None
    steps = {"max_denoising_steps": 2} if family.folder == "diffusion_gemma" else {}
    return {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, **steps}


def _padded(
    lengths: tuple[int, ...], side: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids without special ones, (batch, longest), and their mask."""
    places = torch.arange(max(lengths)).expand(len(lengths), -1)
    mask = places < torch.tensor(lengths)[:, None]
    mask = mask if side == "right" else mask.flip(1)
    ids = torch.randint(5, 100, mask.shape, generator=generator)
    return torch.where(mask, ids, 0), mask.long()


ROUTING = re.compile(r"(router|gate|classifier|wg|experts?(_\d+)?|\w+_moe)(\.|$)")


def _spread_routing(model: torch.nn.Module) -> None:
    """Give routers weights that tell tokens apart, experts weights that matter, selection biases that bite.

    Many of them start at zero or at the scale of a trained model, where all tokens make the same choice;
    padding starts at zero, where a witness could not tell gate weights from what they multiply.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx].normal_(std=0.2)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("correction_bias", "expert_bias", "balancing_biases")):
            tensor.data += 0.2 * torch.randn_like(tensor)
        elif name.endswith("tid2eid"):
            tensor.data = torch.rand(tensor.shape[0], NUM_EXPERTS).argsort(1)[:, : tensor.shape[1]]
        elif ROUTING.search(name) and tensor.is_floating_point() and tensor.dim() >= 2:
            tensor.data.normal_(std=1.5 * tensor.shape[-1] ** -0.5)
        elif name.endswith("per_expert_scale"):
            tensor.data.uniform_(0.5, 1.5)
