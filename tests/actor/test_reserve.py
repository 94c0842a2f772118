"""Memory that is kept for the moment at which there is none."""

import errno
import os
import resource
import sys

import pytest

from actor import reserve
from actor.reserve import MISSES_MAX, RESERVE_BYTES, Reserve, is_out_of_memory


def run_in_child(check):
    """Run *check* in a process of its own, whose bounds are nobody else's."""
    child = os.fork()
    if not child:
        status = 1
        try:
            check()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space so")
def test_what_is_given_back_can_be_had_and_what_is_missing_for_long_is_lost():
    def check():
        kept = Reserve()
        octets = [int(n) for n in open("/proc/self/statm").read().split()]  # noqa: PTH123, SIM115
        used = octets[0] * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + RESERVE_BYTES // 2, resource.RLIM_INFINITY))
        with pytest.raises(OSError):  # noqa: PT011 - there is no room for so much.
            reserve.hold(RESERVE_BYTES)

        kept.give()
        taken = reserve.hold(RESERVE_BYTES)

        for _ in range(MISSES_MAX):
            assert not kept.is_lost
            kept.take()
            assert kept.is_missing
        assert kept.is_lost
        taken.close()

    assert run_in_child(check) == 0
