"""The floor: a bare relay of three processes, against which every figure of warmslot is a ratio.

The rule: a goal is a ratio to the relay measured in the same round of the same run. The same figure
moves by a factor of two between runs on a shared machine.

    python -m bench.floor [--rounds 5] [--count 2000] [--transport tcp|ipc|both] [--json FILE]

This process is the client (DEALER); a broker (ROUTER) and a worker (DEALER) are its children, in
`relay.py`. The naive style is pyzmq as one writes it first (`recv_multipart`); the bound style
calls the socket's own primitives. Beside them stands the least that a system of tasks does, of
`least.py`, with credit for one call at a time or for 17.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Self

import zmq

from bench.least import Calls
from bench.relay import CLIENT, bound_primitives, open_socket
from bench.support import Figures, Workspace, arguments, run_rounds

# What a small call takes on the wire: a header and the pickle of a few arguments.
BODY = bytes(range(100))

PATHS = {
    "relay, naive": "naive",
    "relay, bound primitives": "bound",
    "the least of tasks, credit 1": "1",
    "the least of tasks, credit 17": "17",
}

warm_up_count = 200
receive_timeout_s = 20.0


class Relay:
    """Run the bare relay for the length of a `with` and measure it from here, its client.

    *transport* is "tcp" (loopback) or "ipc"; *style* is "naive" or "bound", or the credit of the
    worker where what is relayed are tasks. Without a worker the broker answers by itself. A relay
    that does not answer for 20 s raises RuntimeError with what its processes printed.
    """

    def __init__(
        self, transport: str = "tcp", style: str = "naive", *, has_worker: bool = True
    ) -> None:
        self._transport = transport
        self._style = style
        self._roles = ("broker", "worker") if has_worker else ("alone",)
        self._workspace = Workspace()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = open_socket(self._context, zmq.DEALER)
        self._dealer.rcvtimeo = int(receive_timeout_s * 1000)
        self._send, self._recv = bound_primitives(self._dealer)
        self._module = "bench.relay"
        if style == "naive":
            self._exchange = self._exchange_naive
        elif style == "bound":
            self._exchange = self._exchange_bound
        else:
            self._exchange = Calls(self._dealer).exchange
            self._module = "bench.least"

    def __enter__(self) -> Self:
        with ExitStack() as ending:
            ending.enter_context(self._workspace)
            ending.callback(self._context.destroy, linger=0)
            endpoint = self._workspace.endpoint(self._transport)
            for role in self._roles:
                self._workspace.start(self._module, role, self._style, endpoint)
            self._dealer.connect(endpoint)
            with self._answering():
                self._dealer.send(CLIENT)
                self._dealer.recv()
            self.round_trips(warm_up_count)
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.close()

    def round_trips(self, count: int, *, pause_s: float = 0.0) -> list[float]:
        """Return the seconds that each of *count* messages took to come back, one at a time.

        After *pause_s* of silence each: what slept meets cold caches, here as anywhere.
        """
        samples = []
        with self._answering():
            for _ in range(count):
                if pause_s:
                    time.sleep(pause_s)
                started = time.perf_counter()
                self._exchange(1)
                samples.append(time.perf_counter() - started)
        return samples

    def throughput(self, count: int) -> float:
        """Return the messages per second when *count* are sent one by one and then all gathered."""
        with self._answering():
            started = time.perf_counter()
            self._exchange(count)
            return count / (time.perf_counter() - started)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except zmq.Again:
            logs = self._workspace.logs()
            raise RuntimeError(f"no answer in {receive_timeout_s:g} s: {logs}") from None

    def _exchange_naive(self, count: int) -> None:
        for _ in range(count):
            self._dealer.send_multipart([BODY])
        for _ in range(count):
            self._dealer.recv_multipart()

    def _exchange_bound(self, count: int) -> None:
        for _ in range(count):
            self._send(BODY)
        for _ in range(count):
            self._recv()


def measure_relay(transport: str, count: int, style: str = "naive") -> Figures:
    """Return the figures of one round: *count* round trips and five times as many pipelined."""
    with Relay(transport, style) as relay:
        return Figures.of(relay.round_trips(count), per_s=relay.throughput(count * 5))


def main() -> int:
    options = arguments("Measure the bare ZeroMQ relay.").parse_args()
    return run_rounds(
        {path: partial(measure_relay, style=style) for path, style in PATHS.items()}, options
    )


if __name__ == "__main__":
    sys.exit(main())
