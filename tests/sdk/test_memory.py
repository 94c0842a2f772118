"""How much memory there could be."""

import pytest

from sdk.reading import memory


@pytest.mark.parametrize("most", [70_000, 1_000_000, 123_456_789])
def test_what_there_may_be_is_found_to_a_few_pages(monkeypatch, most):
    monkeypatch.setattr(memory, "may_be", lambda octets: octets <= most)

    assert memory.room(most) == 0
    assert most - 2 * memory.STEP_MIN <= memory.room(2**28) <= most


def test_no_system_has_all_that_can_be_counted():
    assert memory.may_be(4096)
    assert not memory.may_be(2**62)
    assert not memory.may_be(2**70)
