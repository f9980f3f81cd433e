"""M³ViT: the same patch goes to other experts when the task is switched."""

import base64
import io

import numpy as np
from PIL import Image

from moescope.sample_data.gallery.patches import SIDE, TASKS


def test_a_switched_task_changes_experts_of_the_same_image(made):
    trace = made("patches")
    tags = {row["prompt_id"]: dict(row["tags"]) for row in trace.prompts().to_pylist()}
    chosen = {}
    for event in trace.events(layer=1).to_pylist():
        about = tags[event["prompt_id"]]
        chosen[about["task"], about["image"], event["position"]] = set(event["experts"])
    first, second = TASKS
    pairs = [(experts, chosen[second, *where]) for (task, *where), experts in chosen.items() if task == first]
    assert len(pairs) == 12 * SIDE * SIDE
    assert np.mean([a != b for a, b in pairs]) > 0.3


def test_a_prompt_carries_its_grid_and_its_picture(made):
    trace = made("patches")
    for row in trace.prompts().to_pylist():
        about = dict(row["tags"])
        assert about["grid"] == f"{SIDE}x{SIDE}"
        data = base64.b64decode(about["picture"].removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(data)).size == (8, 8)
    assert trace.num_tokens == trace.num_prompts * SIDE * SIDE
