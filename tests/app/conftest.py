"""A hand-made trace in several languages whose text tries to be everything but text."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moescope.store import Part, RouterEvents, RouterSpec, RouterSums, TraceWriter

TEXTS = {
    "en": [
        "All human beings are born free and equal in dignity and rights.",
        "Everyone has the right to life.",
    ],
    "de": [
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
        "Jeder hat das Recht auf Leben.",
    ],
    "ja": ["すべての 人間は、生まれながらに して 自由であり", "すべて 人は、生命に 対する 権利を 有する。"],
    "ar": ["يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.", "لكل فرد الحق في الحياة."],
}
EVIL = [
    "<script>window.hacked=1</script> <b>bold</b> <img src=x onerror=window.hacked=1>",
    "**not bold** $x^2$ [link](javascript:window.hacked=1) :red[no] `code` </script>",
    "=cmd|'/c calc'!A1 \u202eevil\u202c\ttab\nnew line \x07bell",
]
LAYERS, EXPERTS, TOP_K = 4, 8, 2


def _tokens(text: str) -> list[str]:
    return ["<s>", *re.findall(r"\s?\S+|\s", text)]


def write_hand_trace(folder: Path, *, finish: bool = True, steering: dict | None = None) -> Path:
    """12 prompts: TEXTS in four languages, parallel, and EVIL in English without a partner."""
    rows = [
        {"id": f"{language}-{unit}", "text": text, "language": language, "unit": f"u{unit}", "group": "law"}
        for language, texts in TEXTS.items()
        for unit, text in enumerate(texts)
    ]
    rows += [
        {"id": f"evil-{n}", "text": text, "language": "en", "unit": None, "group": "<i>evil</i>"}
        for n, text in enumerate(EVIL)
    ]
    specs = [
        RouterSpec(layer=layer, num_experts=EXPERTS, top_k=TOP_K, router=f"layers.{layer}.gate")
        for layer in range(LAYERS)
    ]
    writer = TraceWriter(
        folder, routers=specs, model={"name": "hand <b>made</b>"}, prompt_set={"fingerprint": "hand"},
        settings={}, steering=steering,
    )  # fmt: skip
    with writer as out:
        out.write(_part(rows, specs))
        if finish:
            out.finish()
    return folder


def _part(rows: list[dict], specs: list[RouterSpec]) -> Part:
    rng = np.random.default_rng(7)
    tokens = [_tokens(row["text"]) for row in rows]
    prompt_N = np.repeat(np.arange(len(rows), dtype=np.int32), [len(t) for t in tokens])
    position_N = np.concatenate([np.arange(len(t), dtype=np.int32) for t in tokens])
    special_N = position_N == 0
    events, sums = [], []
    for spec in specs:
        p_NE = rng.dirichlet(np.ones(EXPERTS) * 0.4, len(prompt_N))
        ids_NK = np.argsort(-p_NE, axis=1)[:, :TOP_K]
        weights_NK = np.take_along_axis(p_NE, ids_NK, 1)
        events.append(
            RouterEvents(
                layer=spec.layer,
                stream=spec.stream,
                prompt=prompt_N,
                position=position_N,
                experts=ids_NK.astype(np.uint8),
                weights=weights_NK.astype(np.float16),
            )
        )
        sums.append(_sums(spec, prompt_N, special_N, p_NE))
    texts = [token for of_prompt in tokens for token in of_prompt]
    number = {text: i for i, text in enumerate(sorted(set(texts)))}
    return Part(
        prompts=pa.table(
            {
                "prompt_id": [row["id"] for row in rows],
                "text": [row["text"] for row in rows],
                "language": [row["language"] for row in rows],
                "group": [row["group"] for row in rows],
                "parallel_id": pa.array([row["unit"] for row in rows], pa.string()),
                "tags": pa.array([[("seen", "yes" if row["language"] in "en de" else "no")] for row in rows],
                                 pa.map_(pa.string(), pa.string())),
            }
        ),
        tokens=pa.table(
            {
                "prompt": prompt_N, "position": position_N,
                "token_id": pa.array([number[text] for text in texts], pa.int32()), "token": texts,
                "phase": ["prefill"] * len(texts), "special": special_N,
                "completion": np.zeros(len(texts), bool),
            }
        ),
        events=events, sums=sums,
    )  # fmt: skip


def _sums(spec: RouterSpec, prompt_N: np.ndarray, special_N: np.ndarray, p_NE: np.ndarray) -> RouterSums:
    keys = sorted({(int(p), bool(s)) for p, s in zip(prompt_N, special_N, strict=True)})
    where = [(prompt_N == prompt) & (special_N == special) for prompt, special in keys]
    entropy_N = -np.sum(p_NE * np.log(np.maximum(p_NE, 1e-30)), axis=1)
    return RouterSums(
        layer=spec.layer, stream=spec.stream, prompt=np.array([p for p, _ in keys], np.int32),
        phase=np.zeros(len(keys), np.uint8), special=np.array([s for _, s in keys]),
        completion=np.zeros(len(keys), bool),
        probability_sum=np.stack([p_NE[rows].sum(0) for rows in where]).astype(np.float32),
        entropy_sum=np.array([entropy_N[rows].sum() for rows in where]),
        nan_tokens=np.zeros(len(keys), np.int64),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _checked_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages refuse a chart that is not valid Vega-Lite."""
    monkeypatch.setattr("moescope.app.shell.draw_chart.CHECKS", True)


@pytest.fixture(scope="session")
def hand_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with a complete, a steered, an unfinished and a broken trace."""
    folder = tmp_path_factory.mktemp("library")
    write_hand_trace(folder / "hand")
    write_hand_trace(folder / "hand-steered", steering={"name": "no <i>expert</i> 3", "rules": []})
    write_hand_trace(folder / "hand-unfinished", finish=False)
    (folder / "broken").mkdir()
    (folder / "broken" / "trace.json").write_text("{not json")
    return folder
