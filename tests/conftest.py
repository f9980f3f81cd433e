"""Settings of all property tests: a busy machine is no failure, and in CI a run can be repeated exactly."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "moescope",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("moescope")
