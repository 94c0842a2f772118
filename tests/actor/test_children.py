"""What a task starts, against a broker that does what the test says."""

import os
import signal
import subprocess

import pytest

from actor.processes.life import EXIT_RETURNED
from tests.actor.test_processes import double, value
from tests.support.deployment import DEADLINE_S, is_alive
from wire.messages import OutcomeAck

pytestmark = [pytest.mark.process, pytest.mark.slow]


def fork_and_return():
    child = os.fork()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else "twice"


@pytest.mark.parametrize("slots", [1, 2])
def test_a_child_that_a_task_has_forked_ends_where_its_call_does(broker, slots):
    # It became a second actor on the same socket, and the task waited for its end for ever.
    broker.start_host("--slots", str(slots))
    actor = broker.actor()

    assert value(broker, actor, broker.run(actor, fork_and_return)) == EXIT_RETURNED
    assert value(broker, actor, broker.run(actor, double, 4)) == 8


def fork_and_ask():
    from sdk.errors import NotInTask
    from sdk.task import current_task

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    refused = 0
    for ask in (current_task().release_slot, current_task().limit("db").__enter__):
        try:
            ask()
        except NotInTask:
            refused += 1
    os._exit(refused)


def test_a_child_that_a_task_has_forked_is_refused_what_only_its_actor_can_give(broker):
    # It waited for ever, and what it read from the actor's descriptors its parent never heard of.
    broker.start_host()
    actor = broker.actor()

    assert value(broker, actor, broker.run(actor, fork_and_ask)) == 2
    assert value(broker, actor, broker.run(actor, double, 4)) == 8


def fork_and_terminate():
    import multiprocessing
    import select

    child = multiprocessing.get_context("fork").Process(target=select.select, args=([], [], []))
    child.start()
    child.terminate()
    child.join(DEADLINE_S)
    child.kill()
    return child.exitcode


def test_a_child_that_a_task_has_forked_took_sigterm_for_a_word_to_its_actor(broker):
    broker.start_host()
    actor = broker.actor()

    assert value(broker, actor, broker.run(actor, fork_and_terminate)) == -signal.SIGTERM


def interrupt_children():
    import multiprocessing
    import os
    import select
    import signal

    forked = multiprocessing.get_context("fork").Process(target=select.select, args=([], [], []))
    forked.start()
    os.kill(forked.pid, signal.SIGINT)
    forked.join(DEADLINE_S)
    forked.kill()
    started = subprocess.Popen(["sleep", "600"])
    started.send_signal(signal.SIGINT)
    try:
        # As an exception, or by the signal where that came while the child was being made.
        return forked.exitcode in (1, -signal.SIGINT), started.wait(DEADLINE_S)
    finally:
        started.kill()


@pytest.mark.parametrize("start", [(), ("--start-method", "spawn")])
def test_what_a_task_has_started_ignored_sigint_as_its_actor_does(broker, start):
    broker.start_host(*start)
    actor = broker.actor()

    assert value(broker, actor, broker.run(actor, interrupt_children)) == (True, -signal.SIGINT)


def start_from_nothing():
    import multiprocessing

    codes = []
    for method in ("spawn", "forkserver"):
        child = multiprocessing.get_context(method).Process(target=abs, args=(1,))
        child.start()
        child.join(DEADLINE_S)
        codes.append(child.exitcode)
    return codes


@pytest.mark.parametrize("start", [(), ("--start-method", "spawn")])
def test_a_process_that_a_task_spawns_took_an_actor_py_of_the_users_for_ours(
    broker, start, tmp_path
):
    (tmp_path / "actor.py").write_text("raise SystemExit('imported')")
    broker.start_host("--python-path", str(tmp_path), *start)
    actor = broker.actor()

    assert value(broker, actor, broker.run(actor, start_from_nothing)) == [0, 0]


def open_pools():
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # As a library does that keeps one for the next time, so nobody ends it by letting go of it.
    multiprocessing.pools = [
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(kind))
        for kind in ("fork", "spawn", "forkserver")
    ]
    return [pool.submit(os.getpid).result() for pool in multiprocessing.pools]


def test_executors_of_processes_that_were_left_open_outlived_their_actor(broker):
    process = broker.start_host()
    actor = broker.actor()
    token = broker.run(actor, open_pools)
    children = value(broker, actor, token)
    broker.say(actor, OutcomeAck([token]))

    process.send_signal(signal.SIGTERM)

    broker.until(lambda: process.poll() is not None)
    broker.until(lambda: not any(map(is_alive, children)))
