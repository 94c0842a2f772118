"""What only real processes can show, against a broker that does what the test says."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.actor.fake_broker import ROOT
from tests.support.deployment import DEADLINE_S, is_alive
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import (
    ActorBeat,
    ActorHello,
    Death,
    HostBeat,
    HostHello,
    Kill,
    OutcomeAck,
    Release,
    Stop,
)
from wire.parts import Status

pytestmark = [pytest.mark.process, pytest.mark.slow]


@contextlib.contextmanager
def lonely_host(**variables):
    """Give a host that has no broker, its end included."""
    command = [
        sys.executable,
        "-m",
        "actor",
        "--broker",
        "tcp://127.0.0.1:9",
        "--log-format",
        "json",
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | variables
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def logged(process):
    return map(json.loads, process.stderr)


def double(value):
    return value * 2


def wait_for_file(path):
    from pathlib import Path
    from threading import Event

    Path(f"{path}.begun").touch()
    while not Path(path).exists():
        Event().wait(0.005)
    return "done"


def released_until(path):
    from sdk.task import current_task

    current_task().release_slot()
    return wait_for_file(path)


def value(broker, actor, token):
    outcome = broker.outcome(actor, token)
    assert outcome.status is Status.RESULT, decode_failure(outcome.body)
    return pickle.loads(outcome.body)


def begun(broker, path):
    """Serve until the run that waits for the file *path* has begun."""
    broker.until(Path(f"{path}.begun").exists)


def test_a_host_starts_an_actor_that_runs_a_function(broker):
    broker.start_host("--slots", "2", "--label", "memory=512")
    actor = broker.actor()
    assert actor.credit.free == 2
    assert actor.hello.labels["memory"] == 512
    assert actor.hello.labels["name"] == actor.name

    token = broker.run(actor, double, 21)

    assert value(broker, actor, token) == 42
    assert actor.credit.free == 2


def test_each_replica_is_an_actor_of_its_own(broker):
    broker.start_host("--replicas", "2", "--name", "twin")

    one, two = broker.actor("twin/0"), broker.actor("twin/1")

    assert one.hello.pid != two.hello.pid
    assert one.hello.host == two.hello.host == broker.host().hello.incarnation


def test_large_arguments_and_results_travel(broker):
    broker.start_host()
    actor = broker.actor()

    token = broker.run(actor, double, b"x" * 1_000_000)

    outcome = broker.outcome(actor, token)
    frames = actor.payloads[token]
    assert (outcome.body, len(frames)) == (b"", 1)
    assert pickle.loads(frames[0]) == b"x" * 2_000_000


def test_release_lets_the_next_task_start(broker, tmp_path):
    broker.start_host()
    actor = broker.actor()
    first = broker.run(actor, released_until, str(tmp_path / "go"))
    broker.until(lambda: actor.of(Release))
    assert actor.credit.free == 1

    assert value(broker, actor, broker.run(actor, double, 1)) == 2
    (tmp_path / "go").touch()

    assert value(broker, actor, first) == "done"


def test_a_second_script_finds_the_environment_warm(broker):
    class Model:
        def enter(self, start):
            self.count = start

        def step(self):
            self.count += 1
            return self.count

    broker.start_host()
    actor = broker.actor()
    for expected in (11, 12):
        template = broker.template(actor, environment=("m", Model, {"start": 10}), method="step")
        token = broker.assign(actor, template)
        assert value(broker, actor, token) == expected

    broker.until(lambda: actor.credit.turns == {"m": 1})
    broker.until(lambda: [b for b in actor.of(ActorBeat) if b.environments == {"m": "warm"}])
    assert actor.of(ActorBeat)[-1].labels["environment.Model"] == "warm"


# --- the ends of processes


CRASHES = [
    ("os._exit", (7,), (7, None)),
    ("os.abort", (), (None, signal.SIGABRT)),
    ("signal.raise_signal", (signal.SIGSEGV,), (None, signal.SIGSEGV)),
    ("os._exit", (0,), (0, None)),
]


def call(name, arguments):
    import importlib

    module, _, function = name.partition(".")
    getattr(importlib.import_module(module), function)(*arguments)


@pytest.mark.parametrize(("name", "arguments", "end"), CRASHES)
def test_a_crash_reports_exactly_what_had_started(broker, tmp_path, name, arguments, end):
    broker.start_host("--slots", "2", "--prefetch", "2")
    actor, host = broker.actor(), broker.host()
    finished = broker.run(actor, double, 1)
    broker.outcome(actor, finished)
    broker.say(actor, OutcomeAck([finished]))
    running = broker.run(actor, wait_for_file, str(tmp_path / "never"))
    released = broker.run(actor, released_until, str(tmp_path / "never"))
    broker.until(lambda: actor.of(Release))
    blocker = broker.run(actor, wait_for_file, str(tmp_path / "go"))
    crash = broker.run(actor, call, name, arguments)
    waiting = broker.run(actor, double, 2)
    begun(broker, tmp_path / "go")

    (tmp_path / "go").touch()

    (death,) = broker.until(lambda: host.of(Death))
    assert death.incarnation == actor.hello.incarnation
    assert (death.exit_code, death.signal) == end
    # The blocker's outcome may not have been received by the broker's end when the process died.
    assert set(death.started) - {blocker, waiting} == {running, released, crash}
    again = broker.until(
        lambda: next(
            (
                peer
                for peer in broker.peers.values()
                if isinstance(peer.hello, ActorHello)
                and peer.hello.incarnation != actor.hello.incarnation
                and peer.credit
            ),
            None,
        )
    )
    assert value(broker, again, broker.run(again, double, 4)) == 8


def test_an_actor_that_was_killed_is_reported(broker):
    broker.start_host()
    actor, host = broker.actor(), broker.host()

    os.kill(actor.hello.pid, signal.SIGKILL)

    (death,) = broker.until(lambda: host.of(Death))
    assert death.signal == signal.SIGKILL
    assert death.started == []


def test_a_death_is_reported_to_a_broker_that_comes_later(broker):
    broker.start_host()
    actor, host = broker.actor(), broker.host()
    os.kill(actor.hello.pid, signal.SIGKILL)
    broker.until(lambda: host.of(Death))

    broker.forget()

    again = broker.host()
    assert [death.incarnation for death in broker.until(lambda: again.of(Death))] == [
        actor.hello.incarnation
    ]


def test_the_broker_can_have_an_actor_killed(broker, tmp_path):
    broker.start_host()
    actor, host = broker.actor(), broker.host()
    token = broker.run(actor, wait_for_file, str(tmp_path / "never"))
    begun(broker, tmp_path / "never")

    broker.say(host, Kill(actor.hello.incarnation, "silent"))

    (death,) = broker.until(lambda: host.of(Death))
    assert death.started == [token]


def test_a_host_that_is_killed_takes_its_actors_along(broker):
    process = broker.start_host("--replicas", "2", "--name", "h")
    pids = [broker.actor(name).hello.pid for name in ("h/0", "h/1")]

    process.kill()
    process.wait()

    broker.until(lambda: not any(map(is_alive, pids)))


def hold_the_interpreter(begun, pipe):
    """Keep the interpreter's lock, as a bad extension does, until somebody writes into *pipe*."""
    import ctypes
    from pathlib import Path

    Path(begun).touch()
    # PyDLL keeps the lock while it calls.
    library = ctypes.PyDLL(None)
    file = library.open(pipe.encode(), 0)
    library.read(file, ctypes.create_string_buffer(1), 1)
    return "held"


def test_a_task_that_holds_the_interpreter_is_attested_by_the_host(broker, tmp_path):
    path, pipe = tmp_path / "begun", str(tmp_path / "pipe")
    os.mkfifo(pipe)
    broker.start_host()
    actor, host = broker.actor(), broker.host()
    token = broker.run(actor, hold_the_interpreter, str(path), pipe)
    broker.until(path.exists)
    said = beats = -1

    def is_silent_for_six_beats():
        nonlocal said, beats
        if said != len(actor.commands):
            said, beats = len(actor.commands), len(host.of(HostBeat))
        return len(host.of(HostBeat)) >= beats + 6

    broker.until(is_silent_for_six_beats)

    assert not host.of(Death)
    assert host.of(HostBeat)[-1].actors[0].stopped is False
    Path(pipe).write_text(".")
    assert value(broker, actor, token) == "held"


def test_a_stopped_process_is_attested_as_stopped(broker):
    broker.start_host()
    actor, host = broker.actor(), broker.host()

    os.kill(actor.hello.pid, signal.SIGSTOP)

    broker.until(lambda: host.of(HostBeat) and host.of(HostBeat)[-1].actors[0].stopped)
    os.kill(actor.hello.pid, signal.SIGCONT)
    broker.until(lambda: not host.of(HostBeat)[-1].actors[0].stopped)


def test_a_forced_stop_of_what_does_not_return_ends_the_process(broker, tmp_path):
    broker.start_host("--force-grace", "0.5")
    actor, host = broker.actor(), broker.host()
    token = broker.run(actor, wait_for_file, str(tmp_path / "never"))
    begun(broker, tmp_path / "never")

    broker.say(actor, Stop(*token, True, "canceled"))

    (death,) = broker.until(lambda: host.of(Death))
    assert death.exit_code == 4


# --- brokers that come and go


def test_what_runs_is_offered_to_a_broker_that_started_again(broker, tmp_path):
    broker.start_host("--slots", "2")
    actor = broker.actor()
    kept = broker.run(actor, double, 3)
    running = broker.run(actor, wait_for_file, str(tmp_path / "go"))
    broker.outcome(actor, kept)

    broker.forget()

    again = broker.actor()
    assert again.hello.incarnation == actor.hello.incarnation
    assert [item.token for item in again.hello.holding] == [running]
    assert [item.token for item in again.hello.kept] == [kept]
    assert value(broker, again, kept) == 6
    (tmp_path / "go").touch()
    assert value(broker, again, running) == "done"


def test_without_a_broker_the_host_says_so_once_and_goes_on_trying():
    with lonely_host() as process:
        said = next(event for event in logged(process) if event["event"] == "broker_unreachable")
        process.send_signal(signal.SIGINT)
        rest = [event["event"] for event in logged(process)]

        assert process.wait(DEADLINE_S) == 0
    assert said["level"] == "warning"
    assert "broker_unreachable" not in rest


def configure_and_log():
    import structlog

    from sdk.task import current_task

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    current_task().log.info("a_line_of_a_task")


def test_a_task_that_configures_structlog_changed_the_log_of_its_host(broker):
    host = broker.start_host("--log-format", "json")
    actor = broker.actor()

    value(broker, actor, broker.run(actor, configure_and_log))

    host.kill()
    assert "a_line_of_a_task" in [event["event"] for event in logged(host)]


@pytest.mark.skipif(sys.platform != "linux", reason="has no fork server")
def test_a_thread_that_loads_with_python_is_told_in_the_log_and_actors_start_without_forks(
    tmp_path,
):
    (tmp_path / "sitecustomize.py").write_text(
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    with lonely_host(PYTHONPATH=str(tmp_path)) as process:
        said = next(event for event in logged(process) if event["event"] == "forkserver_ended")
        # As a terminal that is closed; where the tests were started to outlive theirs, so was this.
        is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        process.send_signal(signal.SIGINT if is_ignored else signal.SIGHUP)
        rest = [event["event"] for event in logged(process)]
        assert process.wait(DEADLINE_S) == 0
    assert "draining" in rest
    assert said["hint"] == "each actor starts from nothing now"
    assert "started a thread" in said["reason"]


def test_an_actor_without_a_thread_to_preload_in_ended_with_a_traceback(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import threading\n"
        "start = threading.Thread.start\n"
        "def starts(thread):\n"
        "    if 'enter_all' in thread.name:\n"
        "        raise RuntimeError('no more')\n"
        "    start(thread)\n"
        "threading.Thread.start = starts\n"
    )
    with lonely_host(PYTHONPATH=str(tmp_path), WARMSLOT_ENVIRONMENT="json:Nope") as process:
        said = [next(logged(process)) for _ in range(3)]

    events = [(one["event"], one.get("reason")) for one in said if one["event"] != "actor_started"]
    assert ("cannot_start", "no more") in events


def test_a_missing_module_is_named(broker):
    broker.start_host()
    actor = broker.actor()
    template = broker.template(actor, double)
    broker.number += 1
    from wire.messages import Assign

    body = b"\x80\x04cno_such_module\nthing\n."
    broker.say(actor, Assign(broker.number, 7, 1, template, 1, body))

    failure = decode_failure(broker.outcome(actor, (broker.epoch, broker.number)).body)
    assert failure.code == Code.TASK_FAILED
    assert "no_such_module" in failure.message
    assert actor.name in failure.message


def test_a_name_that_is_taken_is_refused_and_a_default_is_counted_on(broker):
    broker.start_host("--name", "only")
    broker.actor("only/0")
    second = broker.start_host("--name", "only")
    assert second.wait(DEADLINE_S) == 2
    assert "only" in second.stderr.read()

    broker.start_host()
    broker.start_host()
    broker.until(
        lambda: sum(isinstance(peer.hello, HostHello) for peer in broker.peers.values()) == 3
    )
    names = {peer.name for peer in broker.peers.values() if isinstance(peer.hello, HostHello)}
    assert len(names) == 3
