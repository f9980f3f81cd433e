"""What a configuration says about its routers: layers, streams, experts, experts per token, scoring function.

Read from the configuration alone, layer by layer, by the rules of the model cards; neither moescope's tracer
nor the modules of the model are asked. A conformance test holds `find_routers` against it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from transformers import PreTrainedConfig
from zoo import Family


class Expected(NamedTuple):
    """One router, as the configuration has it."""

    layer: int
    stream: str
    num_experts: int
    top_k: int
    scoring: str


def expected(family: Family, config: PreTrainedConfig) -> list[Expected]:
    """The routers of a model with that configuration, sorted; empty for a model without experts."""
    return sorted(_routers(family.folder, config))


def _routers(folder: str, config: Any) -> Iterator[Expected]:
    if folder in ("vitpose", "vitpose_backbone"):
        backbone = getattr(config, "backbone_config", config)
        for layer in range(backbone.num_hidden_layers):
            yield Expected(layer, "task", backbone.num_experts, 1, "none")
        return
    if config.is_encoder_decoder:
        yield from _encoder_decoder(folder, config)
        return
    for name, stream in (("thinker_config", "decoder"), ("talker_config", "talker")):
        if hasattr(config, name):
            yield from _stack(folder, getattr(config, name).text_config, stream)
    if hasattr(config, "thinker_config"):
        return
    text = getattr(config, "text_config", None) or config
    streams = {"jetmoe": ("decoder", "attention"), "diffusion_gemma": ("decoder", "encoder")}
    for stream in streams.get(folder, ("decoder",)):
        yield from _stack(folder, text, stream)
    if folder == "ernie4_5_vl_moe":
        yield from _stack(folder, text, "vision")
    if folder == "dots3_note" and hasattr(config, "vision_config"):
        vision = config.vision_config
        for layer in _sparse(folder, vision):
            own = vision.per_layer_config[layer]
            yield Expected(layer, "vision", own.num_local_experts, own.num_experts_per_tok, "sigmoid")


def _stack(folder: str, config: Any, stream: str) -> Iterator[Expected]:
    experts, top_k = _experts(folder, config)
    if experts is not None and top_k is not None:
        for layer in _sparse(folder, config):
            yield Expected(layer, stream, experts, top_k, _scoring(folder, config))


def _encoder_decoder(folder: str, config: Any) -> Iterator[Expected]:
    if folder == "nllb_moe":
        steps = {
            "encoder": (config.encoder_layers, config.encoder_sparse_step),
            "decoder": (config.decoder_layers, config.decoder_sparse_step),
        }
        stacks = {name: range(step - 1, n, step) for name, (n, step) in steps.items()}
    else:
        steps = {
            "encoder": (config.num_layers, config.num_sparse_encoder_layers),
            "decoder": (config.num_decoder_layers, config.num_sparse_decoder_layers),
        }
        stacks = {name: range(min(1, n // sparse - 1), n, n // sparse) for name, (n, sparse) in steps.items()}
    for stream, layers in stacks.items():
        for layer in layers:
            yield Expected(layer, stream, config.num_experts, 2 if folder == "nllb_moe" else 1, "softmax")


def _experts(folder: str, config: Any) -> tuple[int | None, int | None]:
    config = getattr(config, "ffn_config", config)
    experts = _first(config, "n_routed_experts", "moe_num_experts", "num_local_experts", "num_experts")
    top_k = _first(config, "num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")
    if folder == "longcat_flash" and experts is not None:
        experts += config.zero_expert_num
    if folder == "zaya" and experts is not None:
        experts += 1
    return experts, 2 if folder == "phimoe" else top_k


def _first(config: Any, *names: str) -> int | None:
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def _sparse(folder: str, config: Any) -> list[int]:
    """The layers with experts."""
    count = config.num_layers if folder == "longcat_flash" else config.num_hidden_layers
    layers = range(count)
    if (types := getattr(config, "layers_block_type", None)) and "moe" in types:
        return [layer for layer in layers if types[layer] == "moe"]
    if types := getattr(config, "mlp_layer_types", None):
        return [layer for layer in layers if types[layer] != "dense"]
    if (chosen := getattr(config, "moe_layers", None)) is not None:
        return list(chosen)
    if folder == "jamba":
        return [i for i in layers if i % config.expert_layer_period == config.expert_layer_offset]
    if folder == "ernie4_5_moe":
        last = config.moe_layer_end_index % count
        return [
            layer
            for layer in range(config.moe_layer_start_index, last + 1)
            if (layer + 1) % config.moe_layer_interval == 0
        ]
    if folder == "gemma4" and not config.enable_moe_block:
        return []
    if folder == "doge" and not config.is_moe:
        return []
    first = _first(config, "first_k_dense_replace", "num_dense_layers") or 0
    step = getattr(config, "decoder_sparse_step", 1)
    dense = getattr(config, "mlp_only_layers", None) or []
    return [layer for layer in layers if layer >= first and (layer + 1) % step == 0 and layer not in dense]


SOFTMAX_TOPK = {
    "aria", "gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "jetmoe",
    "openai_privacy_filter", "doge",
}  # fmt: skip
SOFTMAX = {
    "dbrx", "deepseek_ocr2", "deepseek_v2", "diffusion_gemma", "ernie4_5_moe", "ernie4_5_vl_moe", "flex_olmo",
    "gemma4", "hunyuan_v1_moe", "jamba", "longcat_flash", "mellum", "minimax", "mistral4", "mistral_large4",
    "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe",
    "qwen3_vl_moe", "qwen4_exp", "unlimited_ocr", "zaya",
}  # fmt: skip


def _scoring(folder: str, config: Any) -> str:
    if isinstance(named := getattr(config, "scoring_func", None), str):
        return named
    if folder == "cohere2_moe":
        return "softmax_topk" if config.expert_selection_fn == "softmax" else config.expert_selection_fn
    if folder in SOFTMAX_TOPK:
        return "softmax_topk"
    return "softmax" if folder in SOFTMAX else "sigmoid"
