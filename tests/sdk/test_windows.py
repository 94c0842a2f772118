"""How much a client has at its broker, and when it says what it has received."""

import pytest

from tests.sdk.fakes import Conversation, plan_of, result_of
from tests.sdk.test_core import kinds
from wire.codec import decode_failure
from wire.errors import Code

# --- windows and limits


def test_no_more_calls_than_the_window_are_at_the_broker():
    talk = Conversation(window_tasks=3)
    tasks = [talk.submit() for _ in range(5)]
    talk.turn()
    assert sorted(talk.broker.tasks) == tasks[:3]

    del talk.broker.tasks[tasks[0]]
    talk.say(result_of(tasks[0]))
    talk.turn()

    assert sorted(talk.broker.tasks) == tasks[1:4]
    assert talk.core.queued


def test_no_more_octets_than_the_window_are_at_the_broker():
    talk = Conversation(window_bytes=1_000)
    tasks = [talk.submit(body=b"x" * 400) for _ in range(3)]

    talk.turn()

    assert sorted(talk.broker.tasks) == tasks[:2]
    assert talk.core.queued_bytes == 400


def test_one_call_as_large_as_the_window_goes_alone():
    talk = Conversation(window_bytes=1_000)
    talk.submit(body=b"x" * 2_000)
    talk.submit(body=b"x" * 2_000)

    talk.turn()

    assert sorted(talk.broker.tasks) == [1]


def test_a_canceled_call_makes_room_in_the_window():
    talk = Conversation(window_tasks=1)
    talk.submit()
    talk.submit()
    talk.turn()

    talk.core.cancel(1, False, talk.now)
    talk.turn()

    assert sorted(talk.broker.tasks) == [2]


def test_a_call_over_the_limit_fails_here_and_lets_the_next_pass():
    talk = Conversation(payload_bytes_max=100)
    large = talk.submit(body=b"x" * 101)
    talk.submit()

    talk.turn()

    [(task, result, _)] = talk.core.take_outcomes()
    failure = decode_failure(result.body)
    assert (task, failure.code) == (large, Code.PAYLOAD_TOO_LARGE)
    assert "101 octets" in failure.message
    assert sorted(talk.broker.tasks) == [2]


def test_code_over_the_limit_fails_as_well():
    talk = Conversation(payload_bytes_max=100)
    talk.submit(plan_of(code=b"x" * 101))

    talk.turn()

    [(_, result, _)] = talk.core.take_outcomes()
    assert "the code of 'work'" in decode_failure(result.body).message


@pytest.mark.parametrize("table", ["functions_max", "templates_max"])
def test_what_was_overwritten_in_a_table_is_sent_again(table):
    talk = Conversation(**{table: 2})
    plans = [plan_of(name=str(n), code=bytes([n])) for n in range(4)]

    for _ in range(3):
        for plan in plans:
            talk.submit(plan)
        talk.turn()

    # The broker's end has asserted that it knows template and function of each.
    assert len(talk.broker.submits) == 12


def test_few_small_results_wait_for_the_heartbeat():
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    talk.frames.clear()

    talk.say(result_of(task))
    talk.turn()

    assert talk.frames == []


@pytest.mark.parametrize(
    ("count", "size", "welcome"),
    [
        (300, 1, {}),
        (2, 600_000, {}),
        (4, 1, {"window_tasks": 12}),
        (2, 200, {"window_bytes": 1_000}),
    ],
)
def test_many_or_large_results_are_acknowledged_at_once(count, size, welcome):
    talk = Conversation(**welcome)
    tasks = [talk.submit(body=b"") for _ in range(count)]
    talk.turn()
    talk.frames.clear()

    for task in tasks:
        talk.say(result_of(task, b"x" * size))
    talk.turn()

    assert kinds(talk.frames) == [["Beat"]]
    assert talk.frames[0].received == count
