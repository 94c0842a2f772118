"""The socket of a host or actor: what is said where there can be none."""

import errno

import pytest
import zmq

from actor.connection import connect


@pytest.mark.parametrize("room", [1, 2])
def test_without_room_for_its_sockets_it_is_an_error_of_the_system_and_nothing_stays(room):
    """That of the monitor was an error of ZeroMQ, which nobody caught."""
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, room)

        with pytest.raises(OSError, match="there can be no socket") as raised:
            connect(context, "tcp://127.0.0.1:1")

        assert raised.value.errno == errno.EMFILE
