"""The number of a broker's start: above what is known, and not that of another start."""

import pytest

from broker.facts.epochs import EPOCH_STEPS, above, begin


@pytest.mark.parametrize("stored", [0, 4_999])
def test_an_epoch_is_the_clock_where_that_is_ahead(stored):
    assert begin(stored, 5_000, own=17) == 5_000


@pytest.mark.parametrize("clock_ms", [0, 4_000, 5_000])
def test_an_epoch_rises_where_the_clock_is_not_ahead(clock_ms):
    assert begin(5_000, clock_ms, own=0) == 5_001


def test_starts_that_know_the_same_take_none_alike():
    assert len({begin(5_000, 4_000, own) for own in range(1_000)}) == 1_000


def test_an_epoch_stays_near_what_is_known():
    assert above(5_000, own=2**63) <= 5_000 + EPOCH_STEPS
