"""A wakeup is readable from `set` to `clear`, with an eventfd and with a pipe alike."""

import select

import pytest

from wire.wakeup import Wakeup


@pytest.mark.parametrize("may_use_eventfd", [True, False])
def test_it_is_readable_from_set_to_clear(may_use_eventfd):
    wakeup = Wakeup(may_use_eventfd=may_use_eventfd)
    poll = select.poll()
    poll.register(wakeup.fd, select.POLLIN)

    assert poll.poll(0) == []
    for _ in range(3):
        wakeup.set()
    assert poll.poll(0)
    wakeup.clear()
    assert poll.poll(0) == []
    wakeup.close()
    wakeup.set()
    wakeup.close()


def test_a_full_pipe_stays_readable():
    wakeup = Wakeup(may_use_eventfd=False)
    poll = select.poll()
    poll.register(wakeup.fd, select.POLLIN)

    for _ in range(20_000):
        wakeup.set()
    assert poll.poll(0)
    wakeup.clear()

    assert poll.poll(0) == []
    wakeup.close()
