"""What happens on a GPU, tried without one: hooks never wait for the device, and a decode step is stored in one go.

Fake tensors say that they are on a CUDA device and have no values, so whatever would have to wait for one (a
comparison in Python, `.item()`, `nonzero`, a copy to the host) is an error.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from moescope.store import RouterSpec
from moescope.tracer import PromptSet, trace_prompts
from moescope.tracer.routers.passages import Call, ExpertsCall, by_weight
from moescope.tracer.run import capture, decode_steps
from moescope.tracer.run.arena import Arena, Slot
from moescope.tracer.run.capture import Capture
from moescope.tracer.tokens.batches import collate
from moescope.tracer.tokens.encode import Encoded

EXPERTS, K, ROWS = 8, 2, 12
SPECS = [RouterSpec(layer=i, num_experts=EXPERTS, top_k=K, router=f"{i}.gate") for i in range(3)]
CAPTURE = ("ids", "weights", "probability", "entropy", "logits")


def batch():
    flags = np.zeros(ROWS // 2, bool)
    return collate([Encoded(np.ones(ROWS // 2, np.int32), flags, flags)] * 2, pad_id=0)


def decided(rows: int):
    """A router's call of its experts, and its logits, on the fake device."""
    ids = torch.empty(rows, K, dtype=torch.int64, device="cuda")
    hidden, weights = (torch.empty(rows, n, dtype=torch.bfloat16, device="cuda") for n in (4, K))
    call = Call(torch.nn.Identity(), (hidden, ids, weights), {})
    logits = torch.empty(rows, EXPERTS, dtype=torch.bfloat16, device="cuda")
    return *by_weight(*ExpertsCall().read(call)), logits


def fresh(arena, shape, dtype):
    return Slot(0, 0, shape, dtype), torch.empty(shape, dtype=dtype, device=arena.device)


def test_recording_on_a_gpu_never_waits_for_it(monkeypatch):
    # What can't be faked here waits for nothing: a copy from pinned memory or within the device, `isin`.
    monkeypatch.setattr(
        torch, "isin", lambda values, of, invert=False: torch.empty_like(values, dtype=torch.bool)
    )
    for module in (capture, decode_steps):
        monkeypatch.setattr(module, "moved", lambda tensor, device: torch.empty_like(tensor, device=device))
    monkeypatch.setattr(Arena, "take", fresh)
    monkeypatch.setattr(Arena, "put", lambda arena, values, dtype: fresh(arena, (*values.shape,), dtype)[0])
    sink = Capture(SPECS, CAPTURE, special_ids=np.arange(2), stop_ids=[2])
    real = batch()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        sink.begin(real)
        for spec in SPECS:
            sink.routed(spec, *decided(ROWS))
        sink.end_prefill()
        sink._steps.running = torch.ones(2, dtype=torch.bool, device="cuda")
        for _ in range(2):
            for spec in SPECS:
                sink.routed(spec, *decided(2))
            sink.end_step(torch.empty(2, dtype=torch.int64, device="cuda"))
    assert {stored.device.type for stored in sink._prefill} == {"cuda"}


def test_the_check_would_notice_waiting():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        bool((torch.empty(3, device="cuda") > 0).all())


@pytest.mark.parametrize("layers", [2, 6])
def test_a_decode_step_is_stored_in_the_same_few_copies_whatever_the_number_of_layers(
    tmp_path, monkeypatch, layers
):
    copies = []
    put = Arena.put
    monkeypatch.setattr(Arena, "put", lambda arena, *given: copies.append(given) or put(arena, *given))
    model = tiny_olmoe(num_hidden_layers=layers)
    model.generation_config.eos_token_id = None
    prompts = PromptSet.from_rows([{"text": "one"}, {"text": "two"}])
    steps = 5
    trace_prompts(model, character_tokenizer(), prompts, tmp_path / "t", max_new_tokens=steps + 1)
    in_steps = [given for given in copies if given[0].shape[1:2] == (2,)]
    # ids and weights of all layers together, and which sequences run, what they were fed, and its kind
    assert len(in_steps) == 5 * steps
