"""Sticky keys: where tasks with one key go, and for how long (protocol.md section 11.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.tasks.bindings import Bindings, restore
from tests.broker.conversation import CODE, Conversation, explained
from wire.codec import decode_failure
from wire.errors import Code
from wire.labels import Comparator, Desire
from wire.messages import (
    ActorBeat,
    Assign,
    Bye,
    ClientHello,
    Credit,
    Function,
    LabelsChanged,
    Outcome,
    Result,
    Submit,
    Template,
)
from wire.parts import Call, Status, Sticky

EU = Desire("zone", Comparator.EQUAL, "eu")
TTL_S = 10.0


def sticky(key="k", *, hard=False, desires=(), **fields):
    return Call("work", CODE, desires=list(desires), sticky=Sticky(key, hard), **fields)


@pytest.fixture
def talk():
    return Conversation(sticky_ttl_s=TTL_S)


def two_actors(talk, free=1, **fields):
    return [talk.actor(11 + n, name=f"h/{n}", free=free, **fields) for n in range(2)]


def got(actor):
    return [assign.task for assign in actor.takes(Assign)]


def ends(actor, assign, free=1):
    actor.says(Outcome(actor.epoch, assign.number, Status.RESULT, b""), Credit(free))


def run_one(client, actors, number, call, slot=0):
    """Submit a task and let it end; return at which actor it ran."""
    client.submits(number, call=call, slot=slot)
    for at, actor in enumerate(actors):
        for assign in actor.takes(Assign):
            assert assign.task == number
            ends(actor, assign)
            return at
    return None


def ended(client):
    return {one.task: decode_failure(one.body).code for one in client.takes(Result)}


def reason(client, number):
    return explained(client, number)


def test_tasks_with_one_key_go_to_one_actor(talk):
    actors = two_actors(talk)
    client = talk.client()

    ran = [run_one(client, actors, n, sticky()) for n in range(1, 6)]

    assert len(set(ran)) == 1


def test_a_burst_with_one_new_key_binds_once(talk):
    actors = two_actors(talk, free=2)

    talk.client().submits(1, 2, 3, call=sticky())

    assert sorted(map(len, map(got, actors))) == [0, 2]


def test_calls_of_several_functions_share_the_binding(talk):
    actors = two_actors(talk)
    client = talk.client()
    first = run_one(client, actors, 1, sticky())
    other = Call("other", CODE, sticky=Sticky("k"), at_most_once=True)

    assert run_one(client, actors, 2, other, slot=1) == first
    assert run_one(client, actors, 3, sticky(hard=True), slot=2) == first


def test_a_key_waits_for_its_actor_while_it_is_busy(talk):
    actors = two_actors(talk)
    client = talk.client()
    at = run_one(client, actors, 1, sticky())
    actors[at].says(Credit(0))

    client.submits(2, call=sticky())

    assert got(actors[1 - at]) == []
    assert reason(client, 2)["reason"] == f"bound to h/{at}, which is busy"
    assert reason(client, 2)["actors"][f"h/{1 - at}"] == f"its key is bound to h/{at}"
    actors[at].says(Credit(1))
    assert got(actors[at]) == [2]


@pytest.mark.parametrize("how", ["gone", "draining", "relabeled"])
def test_a_soft_key_falls_back_at_once_and_binds_anew(talk, how):
    actors = two_actors(talk, labels={"zone": "eu"})
    client = talk.client()
    call = sticky(desires=[EU])
    at = run_one(client, actors, 1, call)
    leave(actors[at], how)

    assert run_one(client, actors, 2, call) == 1 - at
    if how != "gone":
        actors[at].says(Credit(1), LabelsChanged(3, {"zone": "eu"}))
    assert run_one(client, actors, 3, call) == 1 - at


def leave(actor, how):
    match how:
        case "gone":
            actor.says(Bye("enough"))
        case "draining":
            actor.says(ActorBeat(Credit(0), 1, {"zone": "eu"}, [], closed="draining"))
        case _:
            actor.says(LabelsChanged(2, {"zone": "us"}))


@pytest.mark.parametrize("how", ["gone", "draining", "relabeled"])
def test_what_waits_for_a_soft_key_goes_on_when_its_actor_goes(talk, how):
    actors = two_actors(talk, labels={"zone": "eu"})
    client = talk.client()
    call = sticky(desires=[EU])
    at = run_one(client, actors, 1, call)
    actors[at].says(Credit(0))
    client.submits(2, call=call)
    assert got(actors[1 - at]) == []

    leave(actors[at], how)

    assert got(actors[1 - at]) == [2]


def test_a_hard_key_waits_for_a_new_process_of_that_name(talk):
    actors = two_actors(talk)
    client = talk.client()
    at = run_one(client, actors, 1, sticky(hard=True))
    actors[at].says(Bye("enough"))

    client.submits(2, call=sticky(hard=True))

    assert got(actors[1 - at]) == []
    assert reason(client, 2)["reason"] == f"bound to h/{at}, which is gone"
    again = talk.actor(50, name=f"h/{at}", free=1)
    assert got(again) == [2]


def test_a_hard_key_ends_in_actor_lost_when_its_actor_stays_away(talk):
    actors = two_actors(talk)
    client = talk.client()
    at = run_one(client, actors, 1, sticky(hard=True))
    other = actors[1 - at]
    client.takes(Result)
    talk.wait(TTL_S - 2, beating=[client, other, actors[at]])
    actors[at].says(Bye("enough"))
    client.submits(2, call=sticky(hard=True))

    # The time begins anew with the loss.
    talk.wait(TTL_S - 2, beating=[client, other])
    assert ended(client) == {}
    talk.wait(4, beating=[client, other])

    assert ended(client) == {2: Code.ACTOR_LOST}
    other.says(Credit(1))
    client.submits(3, call=sticky(hard=True))
    assert got(other) == [3]


def test_a_binding_ends_some_time_after_its_last_task(talk):
    actors = two_actors(talk)
    client = talk.client()
    run_one(client, actors, 1, sticky())
    assert len(talk.broker.bindings.by_key) == 1

    talk.wait(TTL_S + 2, beating=[client, *actors])

    assert talk.broker.bindings.by_key == {}


def test_a_binding_lasts_while_a_task_runs_or_waits(talk):
    actors = two_actors(talk)
    client = talk.client().submits(1, 2, call=sticky())
    [(at, assign)] = [(n, a) for n, actor in enumerate(actors) for a in actor.takes(Assign)]
    client.takes(Result)

    for _ in range(3 * int(TTL_S)):
        for n, actor in enumerate(actors):
            token = (actor.epoch, assign.number)
            actor.beats(holding=[token] if n == at else [], credit=Credit(int(n != at)))
        client.beats()
        talk.wait(1.0)

    assert got(actors[1 - at]) == []
    ends(actors[at], assign)
    assert got(actors[at]) == [2]


def test_a_binding_never_widens_who_may_have_a_task(talk):
    plain = talk.actor(11, name="h/0", free=1)
    client = talk.client()
    assert run_one(client, [plain], 1, sticky()) == 0
    european = talk.actor(12, name="h/1", free=1, labels={"zone": "eu"})

    client.submits(2, call=sticky(desires=[EU]), slot=1)

    assert got(plain) == []
    assert got(european) == [2]
    client.submits(3, call=sticky("h", hard=True), slot=2)
    client.submits(4, call=sticky("h", hard=True, desires=[EU]), slot=3)
    assert got(plain) == [3]
    assert got(european) == []
    assert reason(client, 4)["reason"] == (
        "bound to h/0, which does not satisfy it (needs zone eq 'eu', offers nothing)"
    )


def test_a_lost_run_of_a_soft_key_runs_elsewhere(talk):
    actors = two_actors(talk)
    client = talk.client().submits(1, call=sticky())
    [at] = [n for n, actor in enumerate(actors) if got(actor)]

    actors[at].says(Bye("enough"))

    assert got(actors[1 - at]) == [1]
    assert reason(client, 1)["state"] == "assigned"


def test_bindings_are_stored_and_outlive_the_broker():
    talk = Conversation(recovered=False)
    restore(talk.broker, {"k": "h/0", "gone": "h/7"}, talk.now)
    other = talk.actor(12, name="h/1", free=2)
    client = talk.client().submits(1, call=sticky())
    client.submits(2, call=sticky("gone"), slot=1)

    # In the window an actor that is not here may be about to come back.
    assert got(other) == []
    own = talk.actor(11, name="h/0", free=1)
    assert got(own) == [1]
    talk.wait(3.0, beating=[client, own, other])
    assert got(other) == []  # It has beaten without credit.
    other.says(Credit(1))
    assert got(other) == [2]


def test_what_is_bound_is_for_the_journal(talk):
    actor = talk.actor(11, name="h/0", free=2)
    talk.client().says(
        Function(0, CODE, b"code"),
        Template(0, sticky()),
        Submit(1, 0, b""),
        Submit(2, 0, b""),
        silently=True,
    )
    talk.broker.flush(talk.now)

    _, operations = talk.broker.take_operations()

    assert operations == [("bind", "k", "h/0")]
    assert actor.incarnation in talk.broker.actors


def test_a_client_tells_a_broker_without_memory_what_it_saw():
    talk = Conversation(recovered=False)
    actors = two_actors(talk)
    client = talk.client(1)
    hello = ClientHello(1, "client1", "3.11", [], {"k": "h/1", "": "h/0"})
    client.greets(hello, epoch=client.epoch - 1)

    client.submits(1, call=sticky())

    assert got(actors[1]) == [1]
    assert list(talk.broker.bindings.by_key) == ["k"]


def test_a_broker_that_remembers_does_not_believe_a_client(talk):
    actors = two_actors(talk)
    client = talk.client(1)
    client.greets(ClientHello(1, "client1", "3.11", [], {"k": "h/9"}))

    client.submits(1, call=sticky(hard=True))

    assert sum(map(len, map(got, actors))) == 1


def test_a_run_that_is_claimed_binds_its_key():
    talk = Conversation(recovered=False)
    token = (999, 5)
    actor = talk.actor(11, name="h/0", holding=[(1, 1, token, "running")])
    other = talk.actor(12, name="h/1", free=1)
    client = talk.client(1, unresolved=[(1, 1)])

    client.submits(1, call=sticky(), again=True)
    client.submits(2, call=sticky())

    assert got(other) == []
    actor.says(Credit(1))
    assert got(actor) == [2]


def test_the_bindings_used_the_longest_ago_are_forgotten():
    talk = Conversation(sticky_keys_max=3)
    actor = talk.actor(11, name="h/0", free=1)
    client = talk.client()
    for number, key in enumerate("abcad", 1):
        assert run_one(client, [actor], number, sticky(key), slot=number) == 0

    assert list(talk.broker.bindings.by_key) == ["c", "a", "d"]


def test_100_000_keys_look_at_their_own_actor_only(talk, monkeypatch):
    actors = two_actors(talk)
    client = talk.client()
    keys = 200
    for number in range(1, keys + 1):
        run_one(client, actors, number, sticky(f"k{number}"), slot=number)

    crews = talk.broker.backlog.matching._crews

    # Those of each actor share one crew, those that are not bound another.
    assert len(crews) <= 3


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "lose"]), st.sampled_from("abc"), st.integers(0, 2)),
    max_size=30,
)


@given(STEPS)
def test_both_ways_of_looking_lead_to_the_same_bindings(steps):
    bindings, expected = Bindings({}, {}), {}
    for now, (what, key, actor) in enumerate(steps):
        match what:
            case "put":
                changed = bindings.put(key, f"h/{actor}", now)
                assert changed == (expected.get(key) != f"h/{actor}")
                expected.pop(key, None)
                expected[key] = f"h/{actor}"
            case "drop" if key in expected:
                bindings.drop(key)
                del expected[key]
        bindings.check()
        assert [(k, b.actor) for k, b in bindings.by_key.items()] == list(expected.items())


def test_what_is_bound_in_the_turn_of_a_wake_up_ends_no_later_than_what_comes_after(talk):
    """Found by the simulator: a stall was added to a binding that was made behind it."""
    actor = talk.actor(free=2)
    client = talk.client()
    talk.sleep(60.0)
    client.submits(1, call=sticky("first"))
    talk.wake()
    actor.says(Credit(2))

    client.submits(2, call=sticky("second"), slot=1)

    ends = [binding.until for binding in talk.broker.bindings.by_key.values()]
    assert ends == sorted(ends)
    assert max(ends) <= talk.now + TTL_S
