"""Every architecture of the installed transformers: traced as executed, steered as told."""

import conformance
import pytest
import zoo

FAMILIES = zoo.discover()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_family_is_traced_as_executed_and_steered_as_told(family: zoo.Family):
    result = conformance.examine(family)
    if result.not_run:
        pytest.skip(result.not_run)
    assert not result.failures


def test_every_family_is_documented_and_no_other():
    assert conformance.documented() == {family.name for family in FAMILIES}
