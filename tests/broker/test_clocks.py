"""The time of the journal: what passed between two starts, whatever the clock on the wall says."""

import pytest

from broker.disk import clocks
from broker.disk.clocks import Point, Reading

YEARS_MS = 315_360_000_000
HOUR_MS = 3_600_000
LAST = Point(Reading("b1", 50_000, 1_790_000_000_000), 1_600_000_000_000)


@pytest.mark.parametrize("step_ms", [0, YEARS_MS, -YEARS_MS])
def test_while_the_machine_is_up_no_step_of_the_wall_moves_it(step_ms):
    now = Reading("b1", 51_500, 1_790_000_001_500 + step_ms)

    assert clocks.journal_ms(LAST, now, believed_ms=HOUR_MS) == LAST.journal_ms + 1_500


@pytest.mark.parametrize(
    ("wall_ms", "passed_ms"), [(600_000, 600_000), (YEARS_MS, HOUR_MS), (-YEARS_MS, 0)]
)
@pytest.mark.parametrize(("boot", "since_boot_ms"), [("b2", 90_000), ("", 90_000), ("b1", 49_000)])
def test_over_a_boot_the_wall_is_believed_up_to_a_bound(boot, since_boot_ms, wall_ms, passed_ms):
    """Also where boots have no names, and where the clock of one name went back: another's."""
    now = Reading(boot, since_boot_ms, LAST.reading.wall_ms + wall_ms)

    assert clocks.journal_ms(LAST, now, believed_ms=HOUR_MS) == LAST.journal_ms + passed_ms


def test_a_journal_without_a_point_begins_with_the_wall():
    now = Reading("b1", 50_000, 1_790_000_000_000)

    assert clocks.journal_ms(None, now, believed_ms=HOUR_MS) == now.wall_ms


def test_a_point_is_what_was_read_and_the_time_in_the_journal():
    octets = clocks.encode(LAST.reading, LAST.journal_ms - LAST.reading.since_boot_ms)

    assert clocks.decode(octets) == LAST
    assert clocks.decode(None) is None


def test_two_readings_are_of_one_boot(tmp_path):
    first, second = clocks.read(1), clocks.read(2)

    assert (first.boot, first.wall_ms, second.wall_ms) == (second.boot, 1, 2)
    assert first.since_boot_ms <= second.since_boot_ms


def test_a_system_that_does_not_name_its_boots_has_an_empty_name(tmp_path):
    assert clocks.read(1, boot_id=tmp_path / "none").boot == ""
