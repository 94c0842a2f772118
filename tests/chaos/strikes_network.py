"""What goes wrong with networks, and what strangers and slow readers do: a function a fault.

As in `strikes`, each happens once to a cluster under load.
"""

import resource
import socket
import statistics
import time
from collections import Counter
from typing import Final

import zmq

from sdk import Client
from tests.chaos import costs, history
from tests.chaos.cluster import LEASE_S, TIMEOUT_S, Cluster, descriptors, resident_bytes
from tests.chaos.proxy import BOTH, Proxy, Way
from wire.codec import encode
from wire.messages import PROTOCOL, ClientHello, Frame

# --- networks

# A machine's two actors and their host.
PEERS: Final = 3
# A peer tries again after 50 ms, then after twice as long, at most after half a second.
CONNECTS_PER_S: Final = 2
# Whoever is accepted and then reset begins with 50 ms each time: so ZeroMQ does.
REJECTED_PER_S: Final = 20


def with_strict_limit(it: Cluster) -> None:
    """Define a limit for one that nobody may have beside another."""
    it.broker_options = (*it.broker_options, "--limit", "key=1:strict")


def partition(it: Cluster) -> None:
    """Cut a machine off, one way or both, for up to 24 leases; no peer of it connects in a storm"""
    it.load.has_strict = it.load.has_large = True
    proxy = it.proxies[it.random.choice(it.machines)]
    ways = it.random.choice((BOTH, (Way.UP,), (Way.DOWN,)))
    lasts_s = LEASE_S * it.random.choice((0.2, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 8.0, 24.0))
    connected, tried, began = proxy.connections, proxy.attempts, time.monotonic()
    cuts = 1
    match it.random.choice(("stall", "swallow", "refuse", "reject", "flap", "cut")):
        case "stall":
            proxy.stall(*ways)
        case "swallow":
            proxy.swallow(*ways)
        case "refuse":
            proxy.refuse()
        case "reject":
            proxy.reject()
        case "flap":
            cuts = 3
            for _ in range(cuts):
                proxy.reset()
                it.load.run(min(lasts_s, LEASE_S) / cuts)
        case "cut":
            proxy.cut_after(it.random.randrange(1, 2_000), *ways)
    it.load.run(lasts_s)
    is_rejecting = proxy.is_rejecting
    proxy.heal()
    it.serve()
    # One that was cut off twice connects twice, whatever else.
    lasted_s = time.monotonic() - began
    most = PEERS * (cuts + 1 + CONNECTS_PER_S * lasted_s)
    connected, tried = proxy.connections - connected, proxy.attempts - tried
    if connected > most:
        raise history.Broken(f"{connected} connections in {lasted_s:.1f} s, and {most:.0f} may be")
    if is_rejecting:
        most = PEERS * (cuts + 1 + REJECTED_PER_S * lasted_s)
    if tried > most:
        raise history.Broken(f"{tried} attempts in {lasted_s:.1f} s, and {most:.0f} may be")


def judge_leases(it: Cluster) -> None:
    """Check that nobody had the strict limit beside another, and that no late result counted."""
    it.load.has_strict = it.load.has_large = False
    entries = it.settle()
    it.measured["late results"].append(costs.check_newest(entries))
    it.measured["holders of the strict limit"].append(costs.check_strict(entries))


# --- readers

RESULT_BYTES: Final = 100_000
WINDOW_BYTES: Final = 16 * 2**20
GROWN_BYTES_MAX: Final = 64 * 2**20
# The load's own calls are among those that wait.
SETTLED: Final = 20
ROUND_TRIPS: Final = 300
SLOWER: Final = "p99 of others' calls beside one that does not read, over that without it"


def with_small_window(it: Cluster) -> None:
    """Let the broker keep few octets of results for a client that has not taken them."""
    it.broker_options = (*it.broker_options, "--window-bytes", str(WINDOW_BYTES))


def slow_client(it: Cluster) -> None:
    """Let a client hear nothing while it has far more results than the broker keeps for it."""
    count = it.amount(10_000, 400)
    proxy = Proxy(("127.0.0.1", it.port))
    client, other = Client(proxy.endpoint), Client(it.endpoint)
    pid = it.processes["broker"].pid
    in_flight, it.load.in_flight = it.load.in_flight, 2
    lengths: list[int] = []
    try:
        client.submit(bytes, 1).result(TIMEOUT_S)
        p99_s = {"before": p99_of_calls(it, other)}
        before = resident_bytes(pid)
        proxy.stall(Way.DOWN)
        for _ in range(count):
            # Nobody here keeps a gigabyte.
            future = client.submit(bytes, RESULT_BYTES)
            future.add_done_callback(lambda one: lengths.append(len(one.result(0))))
        waiting = [0, count]
        while waiting[-2] - waiting[-1] not in range(-SETTLED, SETTLED):
            # Until no more of its calls are begun.
            it.load.run(2 * LEASE_S)
            waiting.append(it.load.client.query("status")["queued"])
        p99_s["meanwhile"] = p99_of_calls(it, other)
        grown = resident_bytes(pid) - before
        assert grown < GROWN_BYTES_MAX, f"the broker grew by {grown} octets"
        it.recover()
        proxy.heal()
        it.load.until(lambda: len(lengths) == count, it.story)
        assert set(lengths) == {RESULT_BYTES}
        p99_s["after"] = p99_of_calls(it, other)
    finally:
        it.load.in_flight = in_flight
        proxy.heal()
        for one in (client, other):
            one.close()
        proxy.close()
    it.measured[SLOWER].append(p99_s["meanwhile"] / max(p99_s["before"], p99_s["after"]))


def p99_of_calls(it: Cluster, client: Client) -> float:
    """Return in how many seconds 99 of 100 small calls came back, one after the other."""
    taken_s = []
    for number in range(ROUND_TRIPS):
        began = time.perf_counter()
        assert client.submit(int, number).result(TIMEOUT_S) == number
        taken_s.append(time.perf_counter() - began)
        if number % 10 == 0:
            it.load.pump()
    return statistics.quantiles(taken_s, n=100)[-1]


# --- strangers

MIB: Final = "MiB of the broker after malformed frames"
# 64 octets kept of each frame would be three in each flood.
MORE_MIB_MAX: Final = 4.0
# The third one ends what a sender has to say, and it is told so.
STRIKES_MAX: Final = 3
LAST_SESSION: Final = 2**31 - 1


def malformed_frames(it: Cluster) -> None:
    """Send frames that are none, or nearly some: their sender alone is cut off, nothing grows."""
    pid = it.processes["broker"].pid
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(it.endpoint)
    frame = b"\x96\x01\x00\x01\x00\x00\x91\x96\xacclient-hello\x07\xa1x\xa43.11\x90"
    for number in range(it.amount(50_000, 1_000)):
        octets = bytearray(frame)
        for _ in range(it.random.randrange(1, 6)):
            octets[it.random.randrange(len(octets))] = it.random.randrange(256)
        stranger.send(bytes(octets[: it.random.randrange(1, len(octets) + 1)]))
        if number % 1_000 == 0:
            it.load.pump()
    it.recover()
    # A frame that is a whole HELLO, by chance or as this one, opens a session in which all begins
    # again. It is answered when all before it was heard.
    hello = ClientHello(it.random.randrange(2**30, 2**31), "x", "3.11", [])
    stranger.send(encode(Frame(PROTOCOL, 0, LAST_SESSION, 0, 0, [hello])))
    answers: Counter[bytes] = Counter()

    def is_heard() -> bool:
        heard = False
        while stranger.poll(0):
            found = stranger.recv_multipart()[0]
            answers.update(what for what in (b"error", b"welcome") if what in found)
            heard = heard or LAST_SESSION.to_bytes(4, "big") in found
        return heard

    it.load.until(is_heard, it.story)
    stranger.close(linger=0)
    context.term()
    assert "Traceback" not in it.log("broker"), it.story()
    most = STRIKES_MAX * (1 + answers[b"welcome"])
    assert answers[b"error"] <= most, f"{answers}, and after {STRIKES_MAX} errors it is cut off"
    it.measured[MIB].append(resident_bytes(pid) / 2**20)


def judge_growth(it: Cluster) -> None:
    """Check that the broker has not grown since the first of several floods."""
    first, *_, last_one = it.measured[MIB] * 2
    if last_one - first > MORE_MIB_MAX:
        raise history.Broken(f"the broker grew with malformed frames: {it.measured[MIB]} MiB")


CLOSED: Final = "seconds until idle connections are closed"
FEWER: Final = "calls a second without idle connections, over those beside them"
BLOCKS: Final = 3
BLOCK_CALLS: Final = 300


def idle_connections(it: Cluster) -> None:
    """Connect a thousand times and say nothing, or only the beginning of a handshake.

    Meanwhile as much is done as without them, and the broker closes them in time.
    """
    with Client(it.endpoint) as client:
        rates = [rate_of_calls(it, client) for _ in range(BLOCKS)]
        idle = [socket.create_connection(("127.0.0.1", it.port)) for _ in range(1_000)]
        began = time.monotonic()
        try:
            for one in idle[::2]:
                one.sendall(b"\xff\x00\x00\x00")
            meanwhile = [rate_of_calls(it, client) for _ in range(BLOCKS)]
            it.recover()
            if not it.is_short:
                it.load.until(lambda: all(map(is_closed, idle)), it.story)
                it.measured[CLOSED].append(time.monotonic() - began)
        finally:
            for one in idle:
                one.close()
        rates += [rate_of_calls(it, client) for _ in range(BLOCKS)]
    it.measured[FEWER].append(statistics.median(rates) / statistics.median(meanwhile))


def rate_of_calls(it: Cluster, client: Client) -> float:
    """Return how many small calls are done in a second."""
    it.load.pump()
    began = time.perf_counter()
    futures = client.map(int, range(BLOCK_CALLS))
    assert [one.result(TIMEOUT_S) for one in futures] == list(range(BLOCK_CALLS))
    return BLOCK_CALLS / (time.perf_counter() - began)


def is_closed(connection: socket.socket) -> bool:
    """Tell whether the other end has closed it; what it said before is read."""
    try:
        while connection.recv(4_096, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def descriptors_run_out(it: Cluster) -> None:
    """Leave the broker few descriptors, and connect five hundred times."""
    pid = it.processes["broker"].pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    few = it.random.choice((64, descriptors(pid) + 5))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, hard))
    idle = [socket.create_connection(("127.0.0.1", it.port)) for _ in range(500)]
    try:
        # Those who are connected are served, and whoever comes must wait.
        it.recover()
        for _ in range(3):
            it.load.run(0.1)
            it.recover()
    finally:
        for one in idle:
            one.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert it.processes["broker"].poll() is None, it.story()
    with Client(it.endpoint) as late:
        future = late.submit(int, "7")
        it.load.until(future.done, it.story)
        assert future.result(0) == 7
