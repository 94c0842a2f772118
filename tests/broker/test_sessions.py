"""Opening sessions: what HELLO keeps, releases and asks for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.facts import spans
from tests.broker.conversation import Conversation
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import Assign, Beat, Credit, Error, HostHello, Result, Stop, Welcome, Who

NUMBERS = st.integers(min_value=-3, max_value=30)
SPANS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6)


def numbers_in(listed):
    return {n for first, last in listed for n in range(first, last + 1)}


@given(SPANS)
def test_merged_spans_hold_the_same_numbers_in_order(listed):
    merged = spans.merge(listed)

    assert numbers_in(merged) == numbers_in(listed)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(merged))
    assert all(spans.holds(merged, n) == (n in numbers_in(listed)) for n in range(-5, 33))


@given(SPANS, st.sets(NUMBERS))
def test_what_is_missing_is_what_is_listed_and_not_known(listed, known):
    merged = spans.merge(listed)
    known &= numbers_in(listed)

    assert numbers_in(spans.without(merged, known)) == numbers_in(listed) - known


def test_a_client_that_waits_for_more_than_the_window_is_asked_for_all_of_it():
    talk = Conversation(window_tasks=2)

    client = talk.client(unresolved=[(1, 7)])

    (welcome,) = client.takes(Welcome)
    assert welcome.missing == [(1, 7)]


def test_what_a_client_lists_beyond_the_window_is_kept():
    talk = Conversation(window_tasks=2)
    client = talk.client().submits(8, 9)

    client.greets(type(client.hello)(1, "client1", "3.11", [(1, 9)]))

    assert client.takes(Welcome)[0].missing == [(1, 7)]
    assert [talk.state(client, n) for n in (8, 9)] == ["queued", "queued"]


def test_a_repeated_hello_is_answered_with_its_own_number():
    talk = Conversation()
    client = talk.client()

    client.greets()

    numbers = [frame.session for frame, command, _ in client.heard if type(command) is Welcome]
    assert numbers == [2]


def test_frames_of_a_session_that_a_newer_hello_ended_are_ignored():
    talk = Conversation()
    client = talk.client()
    client.session += 1
    client.greets()
    client.session -= 1

    client.says(Beat())

    assert client.takes(Who) == []
    assert talk.broker.clients[1].session.received == 0


def test_a_hello_on_a_new_connection_ends_the_session_on_the_old():
    talk = Conversation()
    actor = talk.actor(free=1)
    former = actor.rid

    actor.connects()
    actor.greets()

    assert former not in talk.broker.sessions
    assert talk.broker.actors[11].credit.available == 0


def test_a_session_begins_without_credit():
    talk = Conversation()
    actor = talk.actor(free=1)
    actor.greets()

    talk.client().submits(7)

    assert actor.takes(Assign) == []


def test_what_is_absent_from_the_inventory_never_started():
    talk = Conversation()
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    assert len(actor.takes(Assign)) == 1

    actor.greets()

    assert talk.state(client, 7) == "queued"
    assert talk.task(client, 7).tries == 0


def test_what_is_in_the_inventory_stays():
    talk = Conversation()
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (assign,) = actor.takes(Assign)
    token = (actor.epoch, assign.number)

    hello = actor.hello
    actor.greets(replaced(hello, holding=[(1, 7, token, "running")]))
    actor.ends(token, b"answer")

    assert [result.body for result in client.takes(Result)] == [b"answer"]


def test_a_kept_outcome_is_not_requeued():
    talk = Conversation()
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (assign,) = actor.takes(Assign)
    token = (actor.epoch, assign.number)

    actor.greets(replaced(actor.hello, kept=[(1, 7, token)]))
    actor.beats(holding=[], credit=Credit(1))

    assert talk.state(client, 7) == "assigned"
    assert actor.takes(Assign) == []
    assert actor.takes(Who) == []


def test_nobody_takes_over_the_assignment_of_another_actor():
    talk = Conversation()
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (assign,) = actor.takes(Assign)
    token = (actor.epoch, assign.number)

    thief = talk.actor(12, name="host/1", holding=[(1, 7, token, "running")])

    assert talk.task(client, 7).actor.incarnation == 11
    assert len(thief.takes(Stop)) == 1


def test_nobody_gives_the_token_of_one_task_to_another():
    talk = Conversation()
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (assign,) = actor.takes(Assign)
    token = (actor.epoch, assign.number)
    client.submits(8)

    talk.actor(12, name="host/1", holding=[(1, 8, token, "running")])

    assert talk.state(client, 8) == "queued"


def test_an_actor_that_lists_a_token_twice_does_no_harm():
    talk = Conversation(recovered=False)

    talk.actor(
        holding=[(1, 7, (5, 5), "running"), (1, 8, (5, 5), "running")], kept=[(1, 9, (5, 5))]
    )

    talk.broker.check()


def test_the_deaf_phase_of_a_host_ends_with_welcome():
    talk = Conversation()
    host = talk.host()

    host.greets()

    assert len(host.takes(Welcome)) == 1


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_name_that_is_too_long_or_empty_is_fatal(name):
    talk = Conversation()
    host = talk.host()

    host.greets(HostHello(90, name, 1))

    assert [(e.code, e.fatal) for e in host.takes(Error)] == [(Code.BAD_FRAME, True)]


def test_a_lost_process_that_comes_back_does_not_take_its_name_back():
    talk = Conversation()
    zombie = talk.actor(11)
    talk.wait(6.0)
    heir = talk.actor(12)

    zombie.connects()
    zombie.greets()

    assert [(e.code, e.fatal) for e in zombie.takes(Error)] == [(Code.NAME_TAKEN, True)]
    assert talk.broker.actors_by_name["host/0"].incarnation == heir.incarnation


def test_an_actor_does_not_change_its_name():
    talk = Conversation()
    actor = talk.actor(11)

    actor.greets(replaced(actor.hello, name="host/9"))

    assert [error.code for error in actor.takes(Error)] == [Code.NOT_ALLOWED]
    assert set(talk.broker.actors_by_name) == {"host/0"}


def replaced(hello, **fields):
    from tests.broker.conversation import actor_hello

    return actor_hello(hello.incarnation, **{"name": hello.name, **fields})


@pytest.mark.parametrize("room", [0, 99, 100])
def test_what_its_client_has_no_memory_for_is_told_in_its_place_and_kept_for_who_has(room):
    talk = Conversation()
    client, actor = talk.client(), talk.actor(free=2)
    client.submits(1, 2)
    actor.ends((1000, 1), b"x" * 100)
    actor.ends((1000, 2), b"y")
    client.connects()

    client.greets(type(client.hello)(1, "client1", "3.11", [(1, 2)], {}, room))
    large, small = client.takes(Result)
    client.connects()
    client.greets(type(client.hello)(1, "client1", "3.11", [(1, 2)]))

    if room == 99:
        failure = decode_failure(large.body)
        assert failure.code == Code.PAYLOAD_TOO_LARGE
        assert "100 octets" in failure.message
    else:
        assert large.body == b"x" * 100
    assert small.body == b"y"
    assert [result.body for result in client.takes(Result)] == [b"x" * 100, b"y"]
