"""Settings of all property tests: a busy machine is no failure, and in CI a run can be repeated exactly."""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "moescope",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("moescope")


@pytest.fixture(autouse=True, scope="session")
def _subnormals_stay():
    """Training flushes subnormal numbers to 0 for speed, in the whole process: not while tests run."""
    import torch

    torch.set_flush_denormal(False)
    torch.set_flush_denormal = lambda mode: True  # pyright: ignore[reportAttributeAccessIssue]
    return
