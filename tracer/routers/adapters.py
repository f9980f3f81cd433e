"""The architectures that hand routing over in their own way: one short function each, all in one table.

An adapter gets the modules of one MoE block and fills in what the general mechanism of `find` can't see.
To add one: write a function from a `Block` to the changed fields of a `Site` (or of its `RouterSpec`), and
enter it in `ADAPTERS` or `ALONE` under a pattern for the class name of the router.

Shapes: T tokens, K experts per token, E experts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .adapter_passages import (
    BesideShared,
    DenseScores,
    EmergentCall,
    GatedMask,
    OneHotCall,
    ProductAxis,
    ProductKeys,
    SkipExpert,
    SortedByExpert,
)
from .emergent import NOTE
from .passages import ExpertsCall


@dataclass(frozen=True)
class Block:
    """The modules of one MoE block as the finder met them, each with the attributes of its family."""

    path: str
    """Of the router."""
    block: Any
    router: Any
    experts: Any
    num_experts: int
    """Rows of the router's weight, 0 without one."""


Fields = dict[str, Any]
Adapter = Callable[[Block], "Fields | list[Fields]"]
"""What changes in the site; a list where one module is several routers, each with its own `router` and `path` under the
module."""


def dbrx(b: Block) -> Fields:
    return {"scope": b.block, "normalises": b.block.moe_normalize_expert_weights is not None}


def deepseek_v4_hash(b: Block) -> Fields:
    note = "Experts are chosen by a table from token id to experts: there are no logits to edit."
    return {"steerable": False, "note": note, "weight": None}


def doge(b: Block) -> Fields:
    moe, passage = b.router, ProductKeys(b.router)
    note = (
        "Gate weights are the softmax of the chosen scores: the model hands them to no module."
        " Its router mixes the rows of a batch: what a sequence gets depends on its neighbours."
    )
    return {
        "router": moe.router_gate, "experts": moe.up_embed, "scope": moe, "passage": passage, "weight": None,
        "logits": passage.logits, "edits_scores": True, "num_experts": passage.keys**2, "top_k": moe.top_k,
        "scoring": "softmax_topk", "note": note,
    }  # fmt: skip


def emergent(b: Block) -> Fields:
    passage = EmergentCall(b.block)
    return {
        "passage": passage,
        "scoring": "softmax",
        "normalises": False,
        "proportional": False,
        "note": NOTE,
    }


def gemma(b: Block) -> Fields:
    return {"logits_from": b.router.proj, "proportional": False}


def inkling(b: Block) -> Fields:
    shared, passage = b.router.n_shared_experts, BesideShared()
    note = f"The gate weights are normalised together with those of {shared} shared experts."
    return {"num_experts": b.num_experts - shared, "normalises": False, "note": note, "passage": passage,
            "logits": passage.logits, "shared": b.block.shared_experts}  # fmt: skip


def jetmoe(b: Block) -> Fields:
    return {"passage": SortedByExpert()}


def llama4(b: Block) -> Fields:
    note = "The gate weight multiplies the expert's input."
    return {"passage": DenseScores(), "normalises": False, "note": note,
            "logits": lambda call: call.output[1]}  # fmt: skip


def longcat(b: Block) -> Fields:
    real = b.experts.num_routed_experts
    note = f"Experts {real} to {b.num_experts - 1} return their input unchanged."
    note = note if real < b.num_experts else ""
    return {"passage": ExpertsCall(slots=2), "normalises": False, "note": note}


def monet(b: Block) -> list[Fields]:
    heads, keys = b.router.config.moe_heads, b.router.config.moe_experts
    note = (
        f"Product keys: of each of {heads} heads, expert h * {keys} + i is {{axis}} i. The head's expert (i, j) has "
        "the product of both weights. Layers without a router use the decisions of the last one before them."
    )
    axes = [("rows", "w1"), ("columns", "w2")]
    return [
        {
            "path": child, "router": getattr(b.router, child), "experts": b.router,
            "passage": ProductAxis(at, heads, keys), "weight": None,
            "num_experts": heads * keys, "top_k": None, "scoring": "none", "steerable": False,
            "stream": stream, "normalises": True, "proportional": False,
            "note": note.format(axis=stream.removesuffix("s")), "logits": lambda call: call.output,
        }
        for at, (stream, child) in enumerate(axes)
    ]  # fmt: skip


def nllb(b: Block) -> Fields:
    # transformers 5 takes the 0/1 mask of the choice for expert ids, and so runs experts 1 and 0 only.
    flawed = "one_hot(router_mask" in inspect.getsource(type(b.experts).forward)
    note = "Shown is what the router chose; this release of transformers runs experts 0 and 1 whatever it is."
    return {
        "passage": GatedMask(), "top_k": 2, "scoring": "softmax", "logits": lambda call: call.output[2],
        "note": note if flawed else "",
    }  # fmt: skip


def not_normalised(b: Block) -> Fields:
    return {"normalises": False}


def phimoe(b: Block) -> Fields:
    note = "Gate weights come from SparseMixer: a softmax over the experts close to the best one."
    return {"top_k": 2, "normalises": False, "proportional": False, "note": note}


def switch(b: Block) -> Fields:
    note = "Tokens beyond an expert's capacity get no expert."
    return {"passage": OneHotCall(), "top_k": 1, "normalises": False, "note": note}


def vitpose(b: Block) -> Fields:
    note = "The caller chooses the expert, one for a whole image: there are no logits to edit."
    return {
        "experts": b.router, "num_experts": len(b.router), "top_k": 1, "stream": "task", "scoring": "none",
        "steerable": False, "note": note,
    }  # fmt: skip


def zaya(b: Block) -> Fields:
    skip = b.num_experts - 1
    note = f"Expert {skip} is the skip choice: the layer adds nothing, its gate weight is 0."
    return {"passage": SkipExpert(skip), "weight": b.router.router_mlp.out_proj.weight, "normalises": False,
            "note": note}  # fmt: skip


ADAPTERS: dict[str, Adapter] = {
    r"DbrxRouter": dbrx,
    r"DeepseekV4HashRouter": deepseek_v4_hash,
    r"EmergentRouter": emergent,
    r"(DiffusionGemma|Gemma\d)TextRouter": gemma,
    r"InklingTopkRouter": inkling,
    r"(Jamba|DeepseekV2|DeepseekOcr2Text|UnlimitedOcrText)Top[kK]Router": not_normalised,
    r"LongcatFlashTopkRouter": longcat,
    r"NllbMoeTop2Router": nllb,
    r"PhimoeTopKRouter": phimoe,
    r"SwitchTransformersTop1Router": switch,
    r"ZayaRouter": zaya,
}
"""Class of the router (the pattern must match the whole name) → adapter, beside an experts module that is
called with the decision."""

ALONE: dict[str, Adapter] = {
    r"DogeCDMoE": doge,
    r"JetMoeTopKGating": jetmoe,
    r"Llama4Router": llama4,
    r"MonetRouter": monet,
    r"VitPoseNaiveMoe": vitpose,
}
"""The same for modules that hold a decision without such an experts module beside them."""


def adapter_for(cls: type, table: dict[str, Adapter]) -> Adapter | None:
    """The adapter for a class, or for the class that it derives from."""
    for base in cls.__mro__:
        for pattern, adapter in table.items():
            if re.fullmatch(pattern, base.__name__):
                return adapter
    return None
