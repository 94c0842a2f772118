"""The two children of the bare relay: a ROUTER that forwards and a DEALER that echoes.

The rule: nothing here but ZeroMQ. No names, no credit, no records: what a broker does beyond this
is its own cost. `floor.py` starts them, or the broker *alone*, which answers by itself:

    python -m bench.relay broker|worker|alone naive|bound ENDPOINT

    client            broker                     worker
      | body            | client_id, body          |
      +---------------->+------------------------->|
      |            body |          client_id, body |
      |<----------------+<-------------------------+
"""

import os
import sys
import threading
from collections.abc import Callable

import zmq
from zmq.backend import Socket as BoundSocket

# Plain ints: or-ing pyzmq's enum costs more than the send itself.
SNDMORE = 2

# What each peer says first, so that the broker knows whose routing id is whose.
CLIENT = b"client"
WORKER = b"worker"


def bound_primitives(sock: "zmq.Socket[bytes]") -> tuple[Callable[..., None], Callable[..., bytes]]:
    """Return the send and recv of one frame, without the Python layer that pyzmq has above them."""
    return BoundSocket.send.__get__(sock), BoundSocket.recv.__get__(sock)


def open_socket(context: "zmq.Context[zmq.Socket[bytes]]", kind: int) -> "zmq.Socket[bytes]":
    """Return a socket that drops nothing for a full queue and never holds up the process's end."""
    sock = context.socket(kind)
    sock.set_hwm(0)
    sock.linger = 0
    return sock


def meet(router: "zmq.Socket[bytes]") -> bytes:
    """Wait for both peers in any order, tell the client and return the worker's routing id."""
    peers: dict[bytes, bytes] = {}
    while len(peers) < 2:
        sender, role = router.recv_multipart()
        peers[role] = sender
    router.send_multipart([peers[CLIENT], CLIENT])
    return peers[WORKER]


def forward_naive(router: "zmq.Socket[bytes]", worker: bytes) -> None:
    """Forward for ever, the way one would write it first."""
    while True:
        sender, *frames = router.recv_multipart()
        if sender == worker:
            router.send_multipart(frames)
        else:
            router.send_multipart([worker, sender, *frames])


def forward_bound(router: "zmq.Socket[bytes]", worker: bytes) -> None:
    """Forward for ever with bound primitives: the number of frames is known, nobody asks for it."""
    send, recv = bound_primitives(router)
    while True:
        sender = recv()
        if sender == worker:
            send(recv(), SNDMORE)
            send(recv())
        else:
            body = recv()
            send(worker, SNDMORE)
            send(sender, SNDMORE)
            send(body)


def echo_naive(dealer: "zmq.Socket[bytes]") -> None:
    """Send back for ever what comes."""
    while True:
        dealer.send_multipart(dealer.recv_multipart())


def echo_bound(dealer: "zmq.Socket[bytes]") -> None:
    """Send back for ever what comes, with bound primitives."""
    send, recv = bound_primitives(dealer)
    while True:
        send(recv(), SNDMORE)
        send(recv())


def end_with_parent() -> None:
    """End this process when its parent is gone: the other end of standard input is closed then."""

    def watch() -> None:
        # The descriptor itself: a thread blocked inside sys.stdin upsets the interpreter's end.
        while os.read(0, 1):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main(role: str, style: str, endpoint: str) -> None:
    """Run as *role* until the parent ends this process."""
    end_with_parent()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    if role == "alone":
        router = open_socket(context, zmq.ROUTER)
        router.bind(endpoint)
        # Routing id and body: what a ROUTER received it can send back.
        (echo_bound if style == "bound" else echo_naive)(router)
    elif role == "broker":
        router = open_socket(context, zmq.ROUTER)
        router.bind(endpoint)
        worker = meet(router)
        (forward_bound if style == "bound" else forward_naive)(router, worker)
    else:
        dealer = open_socket(context, zmq.DEALER)
        dealer.connect(endpoint)
        dealer.send(WORKER)
        (echo_bound if style == "bound" else echo_naive)(dealer)


if __name__ == "__main__":
    main(*sys.argv[1:])
