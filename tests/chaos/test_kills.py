"""The short form of `tests.chaos.kills`."""

import pytest

from tests.chaos import kills

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_killed_actors_take_no_slot_and_no_limit_with_them(tmp_path):
    done = kills.run(tmp_path, kills=5, seed=7)

    assert len(done.killed) == 5
    assert done.outcomes["result"] > 50


def test_two_holders_of_what_is_there_once_are_noticed(tmp_path):
    class Nothing:
        def client(self):
            return None

    path = tmp_path / "journal"
    path.write_text('[1.0, 5, "host:gpu", 1]\n[2.0, 6, "host:gpu", 1]\n')
    seen = kills.Kills(Nothing(), path, seed=1)
    with pytest.raises(AssertionError, match="2 of host:gpu"):
        seen.check_overlaps()

    seen.killed[5] = 1.5
    seen.check_overlaps()
