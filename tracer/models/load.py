"""Loads a language model and its tokenizer: weights from safetensors or GGUF only, never a pickle, no remote
code.

Whatever goes wrong ends as a `ModelError` whose message fits on one line.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from weakref import finalize

from .complete import missing_weights, refuse_adapter
from .gguf import gguf_ready, read_once
from .load_errors import ModelError, first_line, hub_answers, in_one_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

DISK = "disk"
"""A device: layers stay on disk and come one at a time."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run. Unpacks as `model, tokenizer = load_model(...)`."""

    model: PreTrainedModel
    tokenizer: Any
    card: dict[str, Any]
    """What a manifest says of the model, see `model_card`."""
    notes: tuple[str, ...] = ()
    """What the user must know of the checkpoint: weights that are random, or not used."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))


def load_model(
    name_or_path: str | os.PathLike[str],
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
    allow_missing: bool = False,
    attn_implementation: str | None = None,
    ranks: int = 1,
    experts_whole: bool = False,
) -> LoadedModel:
    """Loads a causal language model from a folder, a hub name or a GGUF file, in eval mode.

    Args:
        name_or_path: a folder with config.json and *.safetensors, a hub name, or the path of a *.gguf file.
        device: `auto` (all CUDA devices, else MPS, else CPU), a torch device such as `cpu` or `cuda:1`, or `disk`:
            layers come into memory one at a time (`models.by_layer`).
        dtype: `auto` (as the checkpoint is stored), `float32`, `bfloat16` or `float16`.
        trust_remote_code: run Python code that comes with the model. Off unless the user asks.
        gguf_file: name of a GGUF file inside the folder or hub repository.
        allow_missing: load a checkpoint that lacks weights; they are random, and the card names them.
        attn_implementation: `eager`, `sdpa`, ...; what the checkpoint says, or transformers prefers, if left out.
        ranks: processes, started by torchrun, over which the model is laid (`models.layout`); all of them load it.
        experts_whole: each of them holds some experts whole, instead of a slice of every expert.
    Raises:
        ModelError: one line that says what is missing or refused.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r} (known: {', '.join(DTYPES)})")
    source, gguf_file = _resolve(str(name_or_path), gguf_file)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if gguf_file:
        options["gguf_file"] = gguf_ready(gguf_file)
    placement = _over_ranks(device, gguf_file, ranks, experts_whole) if ranks > 1 else _placement(device)
    with in_one_line(str(name_or_path)), read_once() if gguf_file else nullcontext():
        if not os.path.isdir(source) and not hub_answers():
            options["local_files_only"] = True
        config = _config(source, options)
        attention: dict[str, Any] = {}
        if attn_implementation is not None:
            attention = {"attn_implementation": attn_implementation}
            attention |= (
                {} if gguf_file else {"config": config}
            )  # else what config.json asks for is tried first
        model, info = _load_weights(source, config, options | attention, dtype, placement)
        missing, notes = missing_weights(str(name_or_path), info, allow=allow_missing)
        tokenizer = _load_tokenizer(source, options)
    from .card import model_card

    card = model_card(model, name=str(name_or_path))
    return LoadedModel(model, tokenizer, card | ({"missing_weights": missing} if missing else {}), notes)


def _resolve(name: str, gguf_file: str | None) -> tuple[str, str | None]:
    """The folder or hub name, and the GGUF file in it."""
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        return str(path.parent), path.name
    if path.is_file():
        raise ModelError(f"{name}: is a file; give the model's folder, or a *.gguf file")
    if name.strip() and path.is_dir():
        _check_folder(path, gguf_file)
        return str(path), gguf_file
    if (
        name.startswith((".", "~", os.sep))
        or name.count("/") > 1
        or not name.strip()
        or path.suffix == ".gguf"
    ):
        raise ModelError(f"{name!r}: there is no such folder")
    return name, gguf_file


def _check_folder(path: Path, gguf_file: str | None) -> None:
    if gguf_file:
        if not (path / gguf_file).is_file():
            raise ModelError(f"{path}: holds no file {gguf_file}")
        return
    refuse_adapter(path)
    if not (path / "config.json").is_file():
        ggufs = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"; it holds {ggufs[0]}: give that file" if ggufs else ""
        raise ModelError(f"{path}: holds no config.json, so it is not a model folder{hint}")
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        raise ModelError(
            f"{path}: its weights are in {pickles[0]}, a pickle, which could run code when it is opened; "
            "convert them to safetensors"
        )
    raise ModelError(f"{path}: holds no *.safetensors")


def _placement(device: str) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained`, or the device to move to afterwards as `to`."""
    import torch

    if device == DISK:
        return {"device_map": DISK}
    if device == "auto":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count > 1 and importlib.util.find_spec("accelerate") is not None:
            return {"device_map": "auto"}
        mps = torch.backends.mps.is_available()
        return {"to": "cuda" if count else "mps" if mps else "cpu"}
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {first_line(error)}") from None
    return {"to": str(target)}


def _over_ranks(device: str, gguf_file: str | None, ranks: int, experts_whole: bool) -> dict[str, Any]:
    from .layout import split_over

    if device != "auto":
        raise ModelError(f"--device {device}: each of {ranks} processes uses its rank's device; leave it out")
    if gguf_file:
        raise ModelError(f"{gguf_file}: a GGUF file can't be laid over {ranks} processes")
    return split_over(ranks, experts_whole=experts_whole)


def _config(source: str, options: dict[str, Any]) -> PreTrainedConfig:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source, **options)


def _load_weights(
    source: str, config: PreTrainedConfig, options: dict[str, Any], dtype: str, placement: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and what transformers says of weights that were missing or not used."""
    import torch

    if options.get("trust_remote_code") and "AutoModelForCausalLM" in getattr(config, "auto_map", {}):
        from transformers import AutoModelForCausalLM as auto_class
    else:
        auto_class = _auto_class(source, config)
    where = dict(placement)
    target = where.pop("to", None)
    offloaded = TemporaryDirectory(prefix="moescope-layers-") if where.get("device_map") == DISK else None
    if offloaded is not None:
        from .by_layer import disk_map

        if "gguf_file" in options:
            raise ModelError(f"--device disk: {options['gguf_file']} is not a safetensors file")
        where = {"device_map": disk_map(auto_class, config), "offload_folder": offloaded.name}
    if target not in (None, "cpu") and importlib.util.find_spec("accelerate") is not None:
        where = {"device_map": {"": target}}  # straight to the device, without a copy in host memory
    weights = {} if "gguf_file" in options else {"use_safetensors": True}
    kind = "auto" if dtype == "auto" else getattr(torch, dtype)
    model, info = auto_class.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        source,
        dtype=kind,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **weights,
        **options,
        **where,
    )
    if target is not None and not getattr(model, "hf_device_map", None):
        model = model.to(torch.device(target))
    if offloaded is not None:
        finalize(model, offloaded.cleanup)  # the layers lie there as long as the model lives
    return model.eval().requires_grad_(False), info | {"model": type(model).__name__}


def _auto_class(source: str, config: PreTrainedConfig) -> Any:
    """The class that gives next-token logits: causal, else the text side of a vision-language model, else
    both halves of an encoder-decoder."""
    import transformers

    names = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM")
    for auto_class in (getattr(transformers, name) for name in names):
        if type(config) in auto_class._model_mapping:
            return auto_class
    raise ModelError(f"{source}: {config.model_type} is not a language model that predicts tokens")


def _load_tokenizer(source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{source}: its tokenizer cannot be loaded: {first_line(error)}") from None
    if len(tokenizer) <= len(
        tokenizer.all_special_ids
    ):  # what transformers makes of a folder without its files
        raise ModelError(f"{source}: its tokenizer cannot be loaded: the folder has no vocabulary file")
    return tokenizer
