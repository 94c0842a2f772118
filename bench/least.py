"""The least that a system of tasks does, on the relay's three processes, and nothing else.

The rule: what a call cannot be without, and not more. A client numbers its calls, pickles arguments
and has a future for each; a broker keeps them in a queue, spends credit, gives each a token and
knows whose it is; an actor looks up the function, calls it and pickles what it returns. Nobody can
die, be late, be canceled, or ask for anything. So what lies between this and the relay is the
least that tasks cost in Python, and what lies between this and warmslot is the price of what it
promises. `floor.py` starts it:

    python -m bench.least broker|worker CREDIT ENDPOINT

    client             broker                   worker
      | SUBMIT, args     | ASSIGN, args           |
      +----------------->+----------------------->|
      |   RESULT, value  |        OUTCOME, value  |
      |<-----------------+<-----------------------+
"""

import pickle
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec
import zmq

from bench.relay import SNDMORE, WORKER, bound_primitives, end_with_parent, meet, open_socket

# What stands for the hash of a function's code.
NOTHING = b"nothing"


class Submit(msgspec.Struct, array_like=True, tag=1):
    number: int
    function: bytes
    slots: int


class Assign(msgspec.Struct, array_like=True, tag=2):
    token: int
    attempt: int
    function: bytes


class Outcome(msgspec.Struct, array_like=True, tag=3):
    token: int
    is_result: bool


class Result(msgspec.Struct, array_like=True, tag=4):
    number: int
    is_result: bool


encode = msgspec.msgpack.Encoder().encode


def schedule(router: "zmq.Socket[bytes]", worker: bytes, credit: int) -> None:
    """Give each call to *worker*, which takes *credit* at once, and its outcome back; for ever."""
    send, recv = bound_primitives(router)
    decode = msgspec.msgpack.Decoder(Submit | Outcome).decode
    queue: deque[tuple[bytes, Submit, bytes]] = deque()
    running: dict[int, tuple[bytes, int]] = {}
    token = 0
    while True:
        sender, command, body = recv(), decode(recv()), recv()
        if type(command) is Submit:
            queue.append((sender, command, body))
        else:
            client, number = running.pop(command.token)
            credit += 1
            send(client, SNDMORE)
            send(encode(Result(number, command.is_result)), SNDMORE)
            send(body)
        while credit and queue:
            client, submit, body = queue.popleft()
            token += 1
            credit -= 1
            running[token] = client, submit.number
            send(worker, SNDMORE)
            send(encode(Assign(token, 1, submit.function)), SNDMORE)
            send(body)


def work(dealer: "zmq.Socket[bytes]") -> None:
    """Run for ever what comes."""
    send, recv = bound_primitives(dealer)
    decode = msgspec.msgpack.Decoder(Assign).decode
    functions: dict[bytes, Callable[..., Any]] = {NOTHING: lambda: None}
    while True:
        assign = decode(recv())
        args, kwargs = pickle.loads(recv())
        try:
            value, is_result = functions[assign.function](*args, **kwargs), True
        except Exception as error:  # noqa: BLE001 - that of a task is for its client.
            value, is_result = error, False
        send(encode(Outcome(assign.token, is_result)), SNDMORE)
        send(pickle.dumps(value, 5))


class Calls:
    """The client: calls that do nothing, each with a future."""

    def __init__(self, dealer: "zmq.Socket[bytes]") -> None:
        self._send, self._recv = bound_primitives(dealer)
        self._decode = msgspec.msgpack.Decoder(Result).decode
        self._futures: dict[int, Future[Any]] = {}
        self._number = 0

    def exchange(self, count: int) -> None:
        """Submit *count* calls and wait for the result of each."""
        for future in [self._submit() for _ in range(count)]:
            while not future.done():
                self._settle()
            future.result()

    def _submit(self) -> "Future[Any]":
        self._number += 1
        future: Future[Any] = Future()
        self._futures[self._number] = future
        self._send(encode(Submit(self._number, NOTHING, 1)), SNDMORE)
        self._send(pickle.dumps(((), {}), 5))
        return future

    def _settle(self) -> None:
        result = self._decode(self._recv())
        value = pickle.loads(self._recv())
        future = self._futures.pop(result.number)
        if result.is_result:
            future.set_result(value)
        else:
            future.set_exception(value)


def main(role: str, credit: str, endpoint: str) -> None:
    """Run as *role* until the parent ends this process."""
    end_with_parent()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    if role == "broker":
        router = open_socket(context, zmq.ROUTER)
        router.bind(endpoint)
        schedule(router, meet(router), int(credit))
    else:
        dealer = open_socket(context, zmq.DEALER)
        dealer.connect(endpoint)
        dealer.send(WORKER)
        work(dealer)


if __name__ == "__main__":
    main(*sys.argv[1:])
