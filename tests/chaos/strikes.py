"""What goes wrong with processes: a function a fault, which happens once.

Each is done to a cluster under load. The numbers are those of the table of faults by which the
project measures itself; results.md says what this machine does not allow.
"""

import contextlib
import ctypes
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from sdk import ActorLost, PoisonTask, current_task
from tests.chaos import costs, history
from tests.chaos.cluster import GO, LEASE_S, STOP, TIMEOUT_S, Cluster
from tests.chaos.crowd import Crowd
from tests.support.deployment import ROOT, environment, wait_until

# --- processes that end


RUNNING: Final = "running when the broker was killed"
ADOPTED: Final = "adopted of what ran"


def broker_kill(it: Cluster) -> None:
    """Kill the broker at any time, and start it again a moment later."""
    it.load.run(it.random.uniform(0.0, 0.3))
    it.struck_at.append(time.monotonic())
    it.kill("broker")
    it.load.run(it.random.uniform(0.0, 0.2))
    it.start_broker()


def judge_adoption(it: Cluster) -> None:
    """Count what ran and was adopted; check that no kill had more run again than were in flight."""
    entries = it.settle()
    kills = [at for at in it.struck_at if at >= it.since]
    running = kept = 0
    for at, until in zip(kills, [*kills[1:], time.monotonic()], strict=True):
        runs, mine = costs.adopted(entries, at)
        running, kept = running + runs, kept + mine
        again = sum(at <= new["at"] < until for _, new in costs.runs_again(entries))
        if again > costs.in_flight(entries, at):
            raise history.Broken(f"{again} runs again after one kill of the broker")
    it.measured[RUNNING].append(running)
    it.measured[ADOPTED].append(kept)


def actor_kill(it: Cluster) -> None:
    """Kill one, and note when."""
    at = time.monotonic()
    it.ended[it.signal_actor(signal.SIGKILL)] = at


TAKEN_OVER: Final = "seconds until a killed run begins elsewhere"


def judge_take_over(it: Cluster) -> None:
    """Measure how soon what was killed runs elsewhere; check that nothing else runs again."""
    entries = it.settle()
    taken_s = [one for pid, at in it.ended.items() for one in costs.taken_over_s(entries, pid, at)]
    it.measured[TAKEN_OVER] += taken_s
    judge_others(it, entries)


def judge_others(it: Cluster, entries: list[history.Entry]) -> None:
    """Check that nothing runs again that ran in a process which no fault has ended."""
    again = [old for old, _ in costs.runs_again(entries) if old["pid"] not in it.ended]
    if again and it.leases_ended() == it.leases_before:
        raise history.Broken(f"ran again, and no fault was where it ran: {again[:3]}")


def machine_kill(it: Cluster) -> None:
    """Kill a host; its actors end with it."""
    it.have_all()
    name = it.random.choice(it.machines)
    it.kill(name)
    it.load.run(it.random.uniform(0.0, 2 * LEASE_S))
    it.start_machine(name)


def crash(how: str, path: str) -> None:
    """Be a task that notes its start and takes its process along, or tries to."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    line = f"{os.getpid()} {datetime.now(UTC).isoformat()} {current_task().actor.name}\n"
    os.write(file, line.encode())
    os.close(file)
    match how:
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sys.exit":
            sys.exit(3)
        case "memory":
            bytearray(2**50)


ENDS_THE_PROCESS: Final = ("exit", "segfault", "abort", "kill")
RAISES: Final = {"sys.exit": "TaskFailed", "memory": "MemoryError"}
CRASHES: Final = (*ENDS_THE_PROCESS, *RAISES)
# A task that ends its process does so three times, one that raises does it once: in so many strikes
# each kind happens three times.
CYCLE: Final = (*CRASHES, *RAISES, *RAISES)
# Of what happened to a task so many lines are kept.
HISTORY_MAX: Final = 10


def child_crash(it: Cluster) -> None:
    """Let a task end its process, each time in another way: given up after exactly three times.

    Those in which others ran as well count for nobody, up to ten.
    """
    how = CYCLE[it.strikes % len(CYCLE)]
    path = it.folder / f"crash{it.crashes}"
    it.crashes += 1
    doubted = losses(it)
    future = it.load.client.submit(crash, how, str(path))
    it.load.until(future.done, it.story)
    starts = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    late = losses(it) - doubted
    check_crashes(how, future.exception(0), future.history, len(starts), late=late)
    if how in ENDS_THE_PROCESS:
        for pid, at, name in starts:
            it.ended[int(pid)] = time.monotonic()
            note_report(it, name, datetime.fromisoformat(at).timestamp())


def note_report(it: Cluster, name: str, at: float) -> None:
    """Note how soon the broker knew: the outcome is sent first, and the line is written after it"""
    it.load.until(lambda: reported_s(it, name, at) < math.inf, it.story)
    it.measured[REPORTED].append(reported_s(it, name, at))


REPORTED: Final = "seconds until the broker knew of a crash"
LOST: Final = re.compile(r"^(\S+) .* actor_lost .*\bactor=(\S+)", re.MULTILINE)


def reported_s(it: Cluster, name: str, at: float) -> float:
    """Return how long after a moment the broker said that an actor is gone."""
    told = LOST.findall(it.log("broker"))
    when = (datetime.fromisoformat(text).timestamp() for text, one in told if one == name)
    return min((found - at for found in when if found >= at), default=math.inf)


def judge_crashes(it: Cluster) -> None:
    """Check that crashes cost no other process anything."""
    judge_others(it, it.settle())


def losses(it: Cluster) -> int:
    """Count the processes that were given up before their host had said how they ended."""
    said = it.log("broker")
    return said.count("was silent for") + said.count("was replaced by a new process")


def check_crashes(
    how: str, error: BaseException | None, told: Sequence[str], starts: int, *, late: int = 0
) -> None:
    """Hold how a task ended against its history and against how often it has begun.

    A report that comes later than the lease ends is a loss, and those are counted apart; one that
    comes when the next run has begun makes a crash of the loss, and may find that run the fourth to
    crash: *late* is how many may have come so.
    """
    died = sum("exit status" in line or "signal" in line for line in told)
    shared = sum("beside others" in line for line in told)
    alone, lost = died - shared, len(told) - died
    is_cut = len(told) == HISTORY_MAX
    case = (how, error, told, starts)
    if how in RAISES:
        assert type(error).__name__ == RAISES[how], case
        assert died == 0, case
        assert 1 <= starts <= 1 + lost, case
        return
    assert is_cut or died <= starts <= died + lost, case
    assert alone <= 3 + lost + late, case
    reason = re.search(r"given up after (\d+ (?:crashes beside|crashes|losses))", str(error))
    match (type(error), reason and reason[1]):
        case (kind, "3 crashes" | "4 crashes" as given) if kind is PoisonTask:
            assert given == f"{alone} crashes" or is_cut, case
            assert alone == 3 or lost or late or is_cut, case
        case (kind, "5 losses") if kind is PoisonTask:
            assert lost == 5 or late or is_cut, case
        case (kind, "10 crashes beside") if kind is ActorLost:
            assert shared == HISTORY_MAX or is_cut, case
        case _:
            raise AssertionError(case)


# --- processes that stand still


def actor_freeze(it: Cluster) -> None:
    """Stop an actor for a part of its lease, or for several."""
    it.load.has_strict = True
    pid = it.signal_actor(STOP)
    it.load.run(LEASE_S * it.random.choice((0.5, 1.0, 3.0, 10.0)))
    # One that has a strict limit is ended by its host, stopped as it is.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, GO)


# Pauses in leases: of 5 s, as they are unless somebody says otherwise, 2 to 60 s.
PAUSES: Final = (0.4, 1.0, 2.0, 4.0, 12.0)
PAUSED_LEASE_S: Final = 1.0


def with_longer_lease(it: Cluster) -> None:
    """Let a lease last longer than a process waits for its turn on a busy machine."""
    it.broker_options = (*it.broker_options, "--lease", str(PAUSED_LEASE_S))


def lease_s(it: Cluster) -> float:
    """Return how long a lease lasts there."""
    return PAUSED_LEASE_S if "--lease" in it.broker_options else LEASE_S


def broker_freeze(it: Cluster) -> None:
    """Stop the broker: nothing runs again for what it did not hear, and nobody is lost.

    Where we got no turn for half a lease ourselves, another may have got none for a whole one. Who
    has the strict limit is rightly ended by its host meanwhile, so nobody has it.
    """
    process = it.processes["broker"]
    has_strict, it.load.has_strict = it.load.has_strict, False
    if has_strict:
        it.settle()
    while True:
        before, lost = again(it), it.log("broker").count("actor_lost")
        # How long we stood still before it does not count.
        it.load.gap_s, it.load.looked_at = 0.0, time.monotonic()
        process.send_signal(STOP)
        it.load.run(it.random.choice(PAUSES) * it.amount(PAUSED_LEASE_S, LEASE_S / 2))
        process.send_signal(GO)
        it.recover()
        (runs, _), (runs_then, _) = again(it), before
        if runs == runs_then and it.log("broker").count("actor_lost") == lost:
            it.load.has_strict = has_strict
            return
        if it.load.gap_s < lease_s(it) / 2:
            raise history.Broken("it blamed others for its own pause")
        it.measured["pauses in which we stood still ourselves"].append(it.load.gap_s)


# --- clients

CLIENT = """
import sys
from pathlib import Path
from tests.chaos.load import Load
from sdk import Client
endpoint, path, name, seed, is_durable = sys.argv[1:]
load = Load(Client(endpoint), Path(path), int(seed), name, is_durable=is_durable == "durable")
while True:
    load.run(1.0)
"""


def client_kill(it: Cluster) -> str:
    """Kill a program in the middle of its calls, and return its name; nothing stays behind."""
    name = f"victim{len(it.killed_clients)}"
    it.killed_clients.add(name)
    seed = str(it.random.randrange(2**30))
    is_durable = "durable" if it.has_journal else ""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, it.endpoint, str(it.history), name, seed, is_durable],
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    enough = it.random.randrange(5, 40)
    try:
        it.load.until(lambda: len(calls_of(it, name)) > enough, it.story)
    finally:
        process.kill()
        process.wait()
    return name


def calls_of(it: Cluster, name: str) -> list[history.Entry]:
    """Return what a client noted of the calls that it made."""
    entries = it.reader.entries()
    return [e for e in entries if e["what"] == history.CALLED and e["client"] == name]


# --- leaving on purpose


def drain(it: Cluster) -> None:
    """Drain one machine under load and start it again: nothing may run twice for it."""
    it.have_all()
    before = again(it)
    name = it.random.choice(it.machines)
    it.processes[name].send_signal(signal.SIGTERM)
    it.load.until(lambda: it.processes[name].poll() is not None, it.story)
    del it.processes[name]
    it.start_machine(name)
    it.recover()
    check_again(it, before, "a drain")


def again(it: Cluster) -> tuple[int, int]:
    """Count the runs that were not the first of their call, and the leases that ended."""
    began = [e["key"] for e in it.reader.entries() if e["what"] == history.BEGAN]
    return len(began) - len(set(began)), it.log("broker").count("was silent for")


def check_again(it: Cluster, before: tuple[int, int], what: str) -> None:
    """Check that nothing ran again since, unless an actor got no turn for as long as its lease."""
    (runs, leases), (runs_then, leases_then) = again(it), before
    if leases == leases_then:
        assert runs == runs_then, f"{what} had tasks run again"


# --- many at once


def restart_storm(it: Cluster) -> None:
    """Restart the broker with a hundred actors connected: all must be back within ten seconds."""
    with Crowd(it.endpoint, 100) as crowd:
        wait_until(lambda: crowd.is_welcome, TIMEOUT_S, it.story)
        it.restart_broker()
        began = time.monotonic()
        wait_until(lambda: crowd.is_welcome, 10.0, it.story)
        it.recovered_s.append(time.monotonic() - began)
