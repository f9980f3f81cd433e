"""A prompt set traced in shards, as the tasks of a Slurm array do it, and joined."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import character_tokenizer, tiny_olmoe

from moescope.app.cli.commands import run
from moescope.store import open_trace
from moescope.store.write.merge import merge_shards
from moescope.tracer import PromptSet, trace_prompts

TEXTS = ("one", "two and two", "x", "four words are here", "five", "a sixth")


def test_shards_hold_each_prompt_once_and_join_to_the_whole_trace(tmp_path: Path) -> None:
    model, tokenizer = tiny_olmoe(), character_tokenizer()
    prompts = PromptSet.from_rows([{"id": f"{i}", "text": text} for i, text in enumerate(TEXTS)])
    for name, shard in (("whole", None), ("1", (1, 4)), ("2", (2, 4)), ("3", (3, 4)), ("4", (4, 4))):
        # one prompt a batch: a prompt then has the same shapes in every run, and the same bits
        trace_prompts(model, tokenizer, prompts, tmp_path / name, batch_size=1, shard=shard)
    merged = merge_shards([tmp_path / name for name in "1234"], tmp_path / "all")
    assert (merged.state, merged.prompts) == ("complete", len(TEXTS))
    found, whole = open_trace(tmp_path / "all"), open_trace(tmp_path / "whole")
    order = [("prompt_id", "ascending"), ("layer", "ascending"), ("position", "ascending")]
    assert found.events().sort_by(order).equals(whole.events().sort_by(order))
    assert found.manifest.settings == whole.manifest.settings


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2", "1/0"])
def test_a_shard_that_is_none_is_a_usage_error(tmp_path: Path, shard: str) -> None:
    assert run(["trace", "model", str(tmp_path), "--out", str(tmp_path / "t"), "--shard", shard]) == 2
