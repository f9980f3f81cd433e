"""The miniature of each example, made once."""

from functools import cache

import pytest

from moescope.sample_data import gallery
from moescope.store import Trace


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(name) → the trace of the example's miniature."""

    @cache
    def make(name: str) -> Trace:
        return gallery.run(name, tmp_path_factory.mktemp("gallery") / name, small=True)

    return make
