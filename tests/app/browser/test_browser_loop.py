"""The whole way in one session: upload → trace → Resonance → Steer → Evaluate → report, with a model of random weights.

Skipped where Chromium is not installed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from real_browser import needs_chromium, once_more_if_late

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [needs_chromium, once_more_if_late, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OLMoE with random weights and a tokenizer of bytes, as a checkpoint."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=260, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_experts=8, num_experts_per_tok=2, eos_token_id=256, pad_token_id=257,
    )  # fmt: skip
    OlmoeForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return folder


def prompt_file(folder: Path) -> Path:
    """Two groups that differ in every byte, as a spreadsheet writes them: semicolons, a mark at the start."""
    lines = [f"{letters}{n};{letters * 3};{group}" for group, of in (("low", "abcdefgh"), ("high", "stuvwxyz"))
             for n, letters in enumerate(of[i:] + of[:i] for i in range(8))]  # fmt: skip
    path = folder / "letters.csv"
    path.write_text("\ufeffid;text;group\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_from_a_file_of_prompts_to_a_report_that_leaves_the_machine(page, tiny_model: Path, tmp_path: Path):
    def say(text: str | re.Pattern[str]) -> None:
        page.get_by_text(text).first.wait_for()

    def press(name: str) -> None:
        page.get_by_role("button", name=name, exact=True).first.click()

    page.goto("/?trace=hand")
    page.get_by_role("textbox", name="Model").fill(str(tiny_model))
    page.get_by_role("textbox", name="Model").press("Enter")
    page.locator(".st-key-new-upload input[type=file]").set_input_files(prompt_file(tmp_path))
    say("16 prompts; 2 groups: low 8, high 8")
    press("Start tracing")
    page.locator(".st-key-job-beside-letters").get_by_text("letters is traced: 16 prompts").wait_for()
    page.locator(".st-key-open-beside-letters button").click()
    page.wait_for_url(re.compile(r"heatmap.*trace=letters"))
    say("even routing would give 25")

    page.get_by_role("link", name="Resonance").click()
    page.get_by_role("button", name=re.compile(r"Send \d+ experts? to Steer")).click()
    page.wait_for_url(re.compile(r"/steer.*profile="))

    press("Start the model")
    page.locator(".ms-server.ms-running").wait_for()
    page.get_by_role("radio", name="evaluate").click()
    say("These are the prompts of the open trace.")
    page.get_by_text("only the second half of the texts").click()
    say("of the second half. Resonance still counts both halves.")
    press("Evaluate")
    say("Run again")
    page.wait_for_url(re.compile("evaluation="))
    press("Pin")
    say("entry 1")

    page.get_by_role("link", name="Reports").click()
    say("1 entry; take it away as")
    with page.expect_download() as waiting:
        press("HTML")
    report = tmp_path / "report.html"
    waiting.value.save_as(report)
    check_report(page, report, hidden=[str(tiny_model.parent), str(tmp_path)])


def check_report(page, report: Path, *, hidden: list[str]) -> None:
    """It opens from the disk with its figure and methods, asks nobody, and names no folder of this machine."""
    text = report.read_text(encoding="utf-8")
    assert not [folder for folder in hidden if folder in text]
    alone = page.context.new_page()
    asked: list[str] = []
    alone.on("request", lambda request: asked.append(request.url))
    alone.goto(report.as_uri())
    alone.locator("svg.marks").first.wait_for()
    assert alone.get_by_text("moescope").count() > 0
    assert asked == [report.as_uri()]
    alone.close()
