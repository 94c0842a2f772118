"""A wakeup is readable from `set` to `clear`, with an eventfd and with a pipe alike."""

import select

import pytest

from wire.wakeup import Wakeup


def is_readable(wakeup):
    return bool(select.select([wakeup.fd], [], [], 0)[0])


@pytest.mark.parametrize("may_use_eventfd", [True, False])
def test_it_is_readable_from_set_to_clear(may_use_eventfd):
    wakeup = Wakeup(may_use_eventfd=may_use_eventfd)

    assert not is_readable(wakeup)
    for _ in range(3):
        wakeup.set()
    assert is_readable(wakeup)
    wakeup.clear()
    assert not is_readable(wakeup)
    wakeup.close()
    wakeup.set()
    wakeup.close()


def test_a_full_pipe_stays_readable():
    wakeup = Wakeup(may_use_eventfd=False)

    for _ in range(100_000):
        wakeup.set()
    assert is_readable(wakeup)
    wakeup.clear()

    assert not is_readable(wakeup)
    wakeup.close()
