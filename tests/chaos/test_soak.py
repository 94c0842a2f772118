"""A soak of some seconds: that of some minutes is a command."""

import pytest

from tests.chaos.soak import COPIES, soak

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_after_kills_the_copies_are_as_many_as_the_policy_wants_and_no_process_is_left():
    story = soak(8.0, seed=3)

    assert not story.wrong
    assert story.copies_last == COPIES[0]
    assert story.kills["broker"] == 1
    assert story.kills.keys() & {"actor", "host"}
