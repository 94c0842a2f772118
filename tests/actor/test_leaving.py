"""How a host leaves: by signals, within a time, and what it says meanwhile."""

import json
import os
import signal
import sys

import pytest

from actor.host import EXIT_CUT_SHORT
from tests.actor.test_processes import begun, double, value, wait_for_file
from tests.support.deployment import is_alive
from wire.messages import ActorBeat, Bye, Death, Drain, HostBeat, OutcomeAck, Reject

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_a_drain_finishes_what_runs_and_hands_back_what_waits(broker, tmp_path):
    process = broker.start_host("--prefetch", "1")
    actor, host = broker.actor(), broker.host()
    running = broker.run(actor, wait_for_file, str(tmp_path / "go"))
    waiting = broker.run(actor, double, 1)
    begun(broker, tmp_path / "go")

    process.send_signal(signal.SIGTERM)
    reject = broker.until(lambda: actor.of(Reject))[0]
    assert (reject.epoch, reject.number) == waiting
    assert not actor.of(Bye)
    (tmp_path / "go").touch()
    assert value(broker, actor, running) == "done"
    broker.say(actor, OutcomeAck([running]))

    broker.until(lambda: actor.of(Bye))
    broker.until(lambda: host.of(Bye))
    broker.until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert not is_alive(actor.hello.pid)


def hold_in_c(path):
    import ctypes
    import threading

    from sdk.task import current_task

    current_task().release_slot()
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)

    def let_go():
        wait_for_file(path)
        libc.pthread_mutex_unlock(mutex)

    libc.pthread_mutex_lock(mutex)
    threading.Thread(target=let_go).start()
    libc.pthread_mutex_lock(mutex)  # No signal ends this, and nobody has the interpreter.
    return "done"


@pytest.mark.skipif(sys.platform != "linux", reason="its mutex is another one elsewhere")
def test_a_run_in_c_code_kept_the_word_that_its_actor_is_to_drain(broker, tmp_path):
    # Python's handlers run in the main thread, and that ran the task.
    process = broker.start_host()
    actor = broker.actor()
    # One in each thread that may lead.
    released = broker.run(actor, hold_in_c, str(tmp_path / "one"))
    begun(broker, tmp_path / "one")
    running = broker.run(actor, hold_in_c, str(tmp_path / "two"))
    begun(broker, tmp_path / "two")

    process.send_signal(signal.SIGTERM)

    broker.until(lambda: any(said.closed == "draining" for said in actor.of(ActorBeat)))
    (tmp_path / "one").touch()
    (tmp_path / "two").touch()
    assert value(broker, actor, released) == value(broker, actor, running) == "done"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(broker, tmp_path, number):
    process = broker.start_host("--slots", "2")
    actor, host = broker.actor(), broker.host()
    token = broker.run(actor, wait_for_file, str(tmp_path / "never"))
    begun(broker, tmp_path / "never")
    assert actor.credit.free > 0

    process.send_signal(number)
    broker.until(lambda: actor.credit.free == 0)

    # Again until one comes that is not taken for the first.
    broker.until(lambda: process.poll() is not None or process.send_signal(number))
    assert not is_alive(actor.hello.pid)
    (death,) = broker.until(lambda: host.of(Death))
    assert death.started == [token]
    # One more that comes when all is over ends it as it would any program.
    assert process.returncode in {EXIT_CUT_SHORT, -number}


def test_a_signal_that_arrives_twice_is_the_first(broker, tmp_path):
    # As from `timeout`, which sends it to the process and to its group.
    process = broker.start_host("--slots", "2")
    actor = broker.actor()
    token = broker.run(actor, wait_for_file, str(tmp_path / "go"))
    begun(broker, tmp_path / "go")

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    broker.until(lambda: actor.credit.free == 0)
    (tmp_path / "go").touch()

    assert value(broker, actor, token) == "done"
    broker.say(actor, OutcomeAck([token]))
    broker.until(lambda: process.poll() is not None)
    assert process.returncode == 0


def test_a_drain_that_takes_its_time_says_what_it_waits_for(broker, tmp_path):
    """Also of an outcome that the broker has and the client has not."""
    process = broker.start_host("--log-format", "json", "--slots", "2")
    actor = broker.actor()
    broker.run(actor, wait_for_file, str(tmp_path / "never"))
    begun(broker, tmp_path / "never")
    assert value(broker, actor, broker.run(actor, double, 1)) == 2

    process.send_signal(signal.SIGTERM)

    said = json.loads(broker.until_said(process, "drain_waits"))
    assert (said["running"], said["outcomes_untold"], said["broker"]) == (1, 1, "there")
    assert "Ctrl-C" in said["hint"]


def test_a_drain_has_a_time_limit(broker, tmp_path):
    process = broker.start_host("--drain-timeout", "0.3")
    actor, host = broker.actor(), broker.host()
    token = broker.run(actor, wait_for_file, str(tmp_path / "never"))
    begun(broker, tmp_path / "never")

    process.send_signal(signal.SIGTERM)

    (death,) = broker.until(lambda: host.of(Death))
    # It is not to blame: the process was ended for the drain.
    assert (death.started, death.beside) == ([], [token])
    broker.until(lambda: process.poll() is not None)
    assert process.returncode == EXIT_CUT_SHORT


def test_a_signal_to_the_only_actor_of_a_host_was_the_end_of_both(broker, tmp_path):
    process = broker.start_host()
    actor = broker.actor()
    token = broker.run(actor, wait_for_file, str(tmp_path / "go"))
    begun(broker, tmp_path / "go")

    # And once more, as from whoever ends a group of processes one by one.
    os.kill(actor.hello.pid, signal.SIGTERM)
    broker.until(lambda: any(said.closed == "draining" for said in actor.of(ActorBeat)))
    os.kill(actor.hello.pid, signal.SIGTERM)
    (tmp_path / "go").touch()
    assert value(broker, actor, token) == "done"
    broker.say(actor, OutcomeAck([token]))
    broker.until(lambda: actor.of(Bye))

    def followed():
        others = [peer for peer in broker.peers.values() if peer.hello.incarnation != was]
        return next((peer for peer in others if peer.name == actor.name and peer.credit), None)

    was = actor.hello.incarnation
    again = broker.until(followed)
    assert value(broker, again, broker.run(again, double, 1)) == 2
    assert process.poll() is None


def test_the_broker_can_drain_one_actor_for_good(broker):
    broker.start_host("--replicas", "2", "--name", "h")
    one, two = broker.actor("h/0"), broker.actor("h/1")
    host = broker.host()

    broker.say(one, Drain(None))

    broker.until(lambda: host.of(Death))
    broker.until(lambda: len(host.of(HostBeat)) and len(host.of(HostBeat)[-1].actors) == 1)
    assert value(broker, two, broker.run(two, double, 1)) == 2


def test_environments_are_left_when_the_actor_leaves(broker, tmp_path):
    class Model:
        def enter(self, path):
            self.path = path

        def exit(self):
            from pathlib import Path

            Path(self.path).touch()

        def ask(self):
            return 1

    process = broker.start_host()
    actor = broker.actor()
    environment = ("m", Model, {"path": str(tmp_path / "left")})
    token = broker.assign(actor, broker.template(actor, environment=environment, method="ask"))
    assert value(broker, actor, token) == 1
    broker.say(actor, OutcomeAck([token]))

    process.send_signal(signal.SIGTERM)

    broker.until(lambda: process.poll() is not None)
    assert (tmp_path / "left").exists()
