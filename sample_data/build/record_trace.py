"""Records the trace that the app opens with: the sample model over udhr.csv, in float32.

The same as `moescope trace model udhr.csv --out trace --dtype float32`, run in sample_data/.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
from pathlib import Path

from recipe import SAMPLE_DATA
from tqdm import tqdm

from moescope.tracer import PromptSet, load_model, trace_prompts
from moescope.tracer.run.trace import Progress


def record(folder: Path, out: str) -> None:
    """Traces folder/udhr.csv with folder/model into folder/out; paths in the trace stay relative."""
    with contextlib.chdir(folder):
        shutil.rmtree(out, ignore_errors=True)
        prompts = PromptSet.from_file("udhr.csv")
        loaded = load_model("model", device="cpu", dtype="float32")
        with tqdm(total=len(prompts), unit="prompt") as bar:

            def show(now: Progress) -> None:
                bar.update(now.prompts - bar.n)

            summary = trace_prompts(
                loaded.model,
                loaded.tokenizer,
                prompts,
                out,
                card=loaded.card | {"name": "sample_data/model"},
                progress=show,
            )
        size = sum(file.stat().st_size for file in Path(out).rglob("*") if file.is_file())
        print(
            f"{summary.prompts} prompts, {summary.tokens} tokens, {summary.events} events, {size / 1e6:.1f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=SAMPLE_DATA, help="holds model/ and udhr.csv")
    parser.add_argument("--out", default="trace", help="name of the trace in that folder; replaced if there")
    options = parser.parse_args()
    record(options.folder, options.out)


if __name__ == "__main__":
    main()
