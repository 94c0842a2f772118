"""Memory that is kept for the moment at which there is none."""

import errno
import subprocess
import sys

import pytest

from actor.running.reserve import Reserve, is_out_of_memory
from tests.support.deployment import DEADLINE_S


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_out"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "no memory"), True),
        (OSError(errno.ENOENT, "no file"), False),
        (ValueError("wrong"), False),
        (chained(ValueError("wrong"), MemoryError()), True),
        (chained(chained(RuntimeError("a"), KeyError("b")), MemoryError()), True),
    ],
)
def test_an_error_says_that_memory_is_out_also_where_it_was_made_of_one(error, is_out):
    assert is_out_of_memory(error) is is_out


def test_errors_that_stand_for_one_another_in_a_circle_come_to_an_end():
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first

    assert not is_out_of_memory(first)


def test_it_is_given_back_for_such_an_error_alone_and_taken_again():
    kept = Reserve()

    kept.give_for(ValueError("wrong"))
    assert kept.is_held

    kept.give_for(MemoryError())
    assert not kept.is_held

    kept.take()
    assert kept.is_held
    assert not kept.is_missing


# In a process that does nothing else, so what it has grows and shrinks by nothing else.
BOUNDED = """
import resource
from actor.running import reserve
kept = reserve.Reserve()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
room = reserve.RESERVE_BYTES // 2
resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
try:
    reserve.hold(reserve.RESERVE_BYTES)
except OSError:
    print("full")
kept.give()
taken = reserve.hold(reserve.RESERVE_BYTES)
for _ in range(reserve.MISSES_MAX):
    assert not kept.is_lost
    kept.take()
    assert kept.is_missing
print("lost" if kept.is_lost else "there")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space so")
def test_what_is_given_back_can_be_had_and_what_is_missing_for_long_is_lost():
    command = [sys.executable, "-c", BOUNDED]

    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)

    assert told.stdout.split() == ["full", "lost"]
