"""Trains the sample model: an OLMoE of 12 million parameters, in about 80 minutes on a CPU core, or on a GPU.

1. A stream of segments, each after <|endoftext|>, in random order; small languages are repeated
   (share of a language ~ sqrt of its tokens). Consecutive tokens of the stream fill the rows of a batch.
2. Loss: cross-entropy + balance * mean over layers of the Switch loss E * sum_e f_e p_e + router_z * mean
   over layers of (log sum exp of the router logits)^2. f: share of choices, p: mean probability of an
   expert, both over the whole batch, which mixes the languages.
3. Warm-up, constant rate, linear decay to 0.

Goes on from WORK/checkpoint.pt when there is one. Ends with the model in WORK/model (bfloat16).
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fast_experts import use_for
from losses import FusedCrossEntropy, router_losses
from muon import make_optimizers
from recipe import Recipe, Training, arguments, recipe_of
from stream import token_stream
from tokenizer import load_tokenizer
from torch import Tensor
from tqdm import tqdm
from transformers import OlmoeConfig, OlmoeForCausalLM


def new_model(recipe: Recipe) -> OlmoeForCausalLM:
    """The untrained model; the same numbers for the same seed."""
    shape = recipe.model
    config = OlmoeConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.expert_width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        num_experts=shape.experts, num_experts_per_tok=shape.experts_per_token, norm_topk_prob=True,
        max_position_embeddings=shape.positions, tie_word_embeddings=True, use_cache=True,
        router_aux_loss_coef=recipe.training.balance, bos_token_id=0, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    model = OlmoeForCausalLM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj")):
                p.mul_((2 * shape.layers) ** -0.5)
    return model


def rate_factor(step: int, training: Training) -> float:
    rising = (step + 1) / (training.warmup * training.steps)
    falling = (training.steps - step) / (training.decay * training.steps)
    return min(1.0, rising, falling)


def save_model(model: OlmoeForCausalLM, work: Path, out: Path) -> None:
    """Writes model and tokenizer as any transformers user expects them, in bfloat16."""
    trained = OlmoeForCausalLM(model.config)
    trained.load_state_dict(model.state_dict())
    trained.bfloat16()
    trained.set_experts_implementation("eager")
    trained.save_pretrained(out)
    load_tokenizer(work).save_pretrained(out)


class Run:
    """Model, optimizers and position in the stream: what a checkpoint holds."""

    def __init__(self, recipe: Recipe, work: Path, device: str = "cpu") -> None:
        self.recipe, self.work = recipe, work
        self.device = torch.device(device)
        self.checkpoint = work / "checkpoint.pt"
        model: Any = new_model(recipe)
        self.model: OlmoeForCausalLM = model.to(self.device)
        use_for(self.model)
        self.optimizers = make_optimizers(self.model, recipe.training)
        self.base_rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.step = 0
        self.seconds = 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
                 "step": self.step, "seconds": self.seconds}  # fmt: skip
        torch.save(state, self.checkpoint.with_suffix(".partial"))
        os.replace(self.checkpoint.with_suffix(".partial"), self.checkpoint)

    def train_step(self, ids: Tensor, targets: Tensor) -> dict[str, float]:
        """One batch: token ids and the ids that follow them, both (rows, row_tokens)."""
        training, config = self.recipe.training, self.model.config
        for optimizer, rates in zip(self.optimizers, self.base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * rate_factor(self.step, training)
        output = self.model.model(ids, use_cache=False, output_router_logits=True)
        hidden = output.last_hidden_state.flatten(0, 1)
        loss = FusedCrossEntropy.apply(hidden, self.model.lm_head.weight, targets.flatten())
        balance, z, chosen_LE = router_losses(output.router_logits, config.num_experts_per_tok)
        late = self.step >= training.late_balance_from * training.steps
        weight = training.late_balance if late else training.balance
        (loss + weight * balance + training.router_z * z).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        smallest = (chosen_LE / chosen_LE.sum(dim=1, keepdim=True)).min()
        return {"loss": loss.item(), "balance": balance.item(), "z": z.item(), "smallest": smallest.item()}


def train(recipe: Recipe, work: Path, *, minutes: float = math.inf, device: str = "cpu") -> Run:
    """Runs to the recipe's last step, or stops (with a checkpoint) after so many minutes."""
    training = recipe.training
    run = Run(recipe, work, device)
    size = training.batch_tokens
    stream = token_stream(work, training.steps * size + 1, recipe.seed)
    begun, saved = time.monotonic() - run.seconds, time.monotonic()
    with (work / "train_log.csv").open("a", encoding="utf-8", buffering=1) as log, \
            tqdm(total=training.steps, initial=run.step, unit="step", mininterval=5) as bar:  # fmt: skip
        while run.step < training.steps:
            piece = stream[run.step * size : (run.step + 1) * size + 1].astype(np.int64)
            late = run.step >= (1 - training.decay) * training.steps
            row = training.late_row_tokens if late else training.row_tokens
            ids, targets = (
                torch.from_numpy(part.reshape(-1, row)).to(run.device) for part in (piece[:-1], piece[1:])
            )
            numbers = run.train_step(ids, targets)
            run.seconds = time.monotonic() - begun
            bar.update()
            bar.set_postfix({k: f"{v:.3f}" for k, v in numbers.items()}, refresh=False)
            values = ",".join(f"{v:.5f}" for v in numbers.values())
            log.write(f"{run.step},{run.seconds:.1f},{values}\n")
            if time.monotonic() - saved > 60 * training.checkpoint_minutes:
                run.save()
                saved = time.monotonic()
            if run.seconds > 60 * minutes:
                break
    run.save()
    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu",
                        help="cpu or cuda (default here: %(default)s)")  # fmt: skip
    parser.add_argument("--stop-after", type=float, default=math.inf, metavar="MINUTES",
                        help="stop with a checkpoint after so many minutes of training")  # fmt: skip
    parser.add_argument("--export", type=Path, metavar="DIR",
                        help="only write the checkpoint's model, as it stands, to DIR")  # fmt: skip
    options = parser.parse_args()
    recipe = recipe_of(options)
    if options.export:
        save_model(Run(recipe, options.work).model, options.work, options.export)
        return
    torch.set_flush_denormal(True)
    if options.threads:
        torch.set_num_threads(options.threads)
    run = train(recipe, options.work, minutes=options.stop_after, device=options.device)
    if run.step == recipe.training.steps:
        save_model(run.model, options.work, options.work / "model")
        print(f"{run.step} steps in {run.seconds / 60:.1f} minutes; the model is in {options.work / 'model'}")


if __name__ == "__main__":
    main()
