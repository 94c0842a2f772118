"""How a client ends, and the program around it."""

import os
import pathlib
import pickle
import re
import subprocess
import sys
import textwrap
import threading

import pytest

import sdk.connection
from sdk import Client, ClientClosed, SerializationError, TaskCanceled, gather
from tests.sdk.client.acting import TIMEOUT_S, identity

pytestmark = pytest.mark.process


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(sdk.connection.__file__).parents[1])}


def test_leaving_cancels_with_one_line(broker, capfd):
    with Client(broker.endpoint) as client:
        futures = client.map(identity, ["later"] * 3)
        waiting = client.submit(identity, futures[0])

    assert all(future.cancelled() for future in [*futures, waiting])
    with pytest.raises(TaskCanceled, match="client was closed"):
        futures[0].result()
    assert capfd.readouterr().err.count("tasks_canceled") == 1
    with pytest.raises(ClientClosed):
        client.submit(identity, 1)
    client.close()


def test_only_what_is_durable_counts_as_not_accepted_by_a_broker_that_is_not_there(capfd):
    with Client("ipc:///nowhere/broker") as client:
        futures = [client.submit(abs, 1), client.submit(abs, 1, durable=True)]

    assert all(future.cancelled() for future in futures)
    errors = capfd.readouterr().err
    assert re.search(r"durable_tasks_not_accepted +count=1 ", errors)
    assert re.search(r"tasks_canceled +count=2 ", errors)


def test_leaving_may_wait(broker):
    client = Client(broker.endpoint)
    futures = client.map(identity, range(10))

    client.close(wait=True)

    assert gather(futures) == list(range(10))


def test_leaving_wakes_whoever_waits(broker):
    client = Client(broker.endpoint)
    future = client.submit(identity, "later")
    broker.left.get(timeout=TIMEOUT_S)
    caught = []
    waiting = threading.Thread(
        target=lambda: caught.append(gather([future], return_exceptions=True, timeout=TIMEOUT_S))
    )
    waiting.start()

    client.close()
    waiting.join(TIMEOUT_S)

    assert not waiting.is_alive()
    assert isinstance(caught[0][0], TaskCanceled)


def test_the_broker_hears_of_the_end(broker):
    client = Client(broker.endpoint, connect_timeout=TIMEOUT_S)
    client.close()

    [end] = broker.ends.values()
    assert type(end.heard[-1]).__name__ == "Bye"


def test_a_client_cannot_be_sent(client):
    with pytest.raises(TypeError, match=r"current_task\(\)\.client"):
        pickle.dumps(client)
    with pytest.raises(SerializationError, match=r"current_task\(\)\.client"):
        client.submit(lambda: client)


def test_nested_calls_carry_the_token_of_their_task(broker):
    for token in ((7, 3), (7, 4)):
        client = Client(broker.endpoint, parent=token)
        assert client.submit(identity, 1).result(TIMEOUT_S) == 1
        client.close()

    [end] = broker.ends.values()
    assert [submit.parent for submit in end.submits] == [(7, 3), (7, 4)]
    sdk.connection._shared.pop(broker.endpoint).close()


def run_script(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
        env=ENVIRONMENT,
    )


def test_a_program_ends_that_never_closed_its_client(broker):
    done = run_script(
        """
        import sys
        from sdk import Client
        client = Client(sys.argv[1], connect_timeout=60)
        client.submit(len, "later")
        client.submit(len, "abc").result(60)
        """,
        broker.endpoint,
    )

    assert done.returncode == 0, done.stderr
    [end] = broker.ends.values()
    assert type(end.heard[-1]).__name__ == "Bye"


def test_a_program_ends_that_never_had_a_broker(tmp_path):
    done = run_script(
        """
        import sys
        from sdk import Client
        client = Client(sys.argv[1])
        client.submit(len, "abc")
        """,
        f"ipc://{tmp_path}/none",
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tasks_canceled") == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_to_make_its_own(broker):
    done = run_script(
        """
        import os, sys
        from sdk import Client, ClientClosed
        client = Client(sys.argv[1], connect_timeout=60)
        future = client.submit(len, "later")
        if os.fork() == 0:
            for work in (lambda: client.submit(len, "x"), lambda: future.result(1)):
                try:
                    work()
                except ClientClosed as error:
                    print("make a Client of your own" in str(error), flush=True)
            with Client(sys.argv[1], connect_timeout=60) as own:
                print(own.submit(len, "abc").result(60), flush=True)
            sys.exit(0)
        os.wait()
        print(client.submit(len, "abcd").result(60))
        """,
        broker.endpoint,
    )

    assert done.stdout.split() == ["True", "True", "abc", "abcd"], done.stderr
