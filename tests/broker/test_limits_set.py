"""Limits as they are set: with a rate, with a strategy, by an operator; and what they cost."""

import json
import random

import msgspec
import pytest
from msgspec import structs

from broker.events.defining import define
from tests.broker.conversation import ask
from tests.broker.test_limit_holders import machine
from tests.broker.test_limits import EPOCH, call, counted_looks, ends, failures, got, lasts, limited
from tests.broker.test_named import BLOB, entry, makes
from tests.broker.test_named import call as named_call
from tests.support.disk import Disk
from wire.errors import Code
from wire.limits import Definition, Strategy, read_definition
from wire.messages import (
    Answer,
    Assign,
    Beat,
    Cancel,
    Credit,
    Function,
    Occupied,
    Occupy,
    Outcome,
    Query,
    Release,
    Stop,
    Submit,
    Template,
    Vacate,
)
from wire.parts import Status

# --- rates


def test_a_rate_gives_back_with_time_and_not_with_the_end():
    talk = limited("web=2:rate=1/s", recovered=False)
    talk.wait(4.0)
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, 3, 4, call=call(limits={"web": 1}))
    assert got(actor) == [1, 2]
    ends(actor, 1, 9)
    ends(actor, 2, 9)
    assert got(actor) == []

    lasts(talk, 1.25, actor, client)
    actor.says(Credit(9))
    assert got(actor) == [3]
    lasts(talk, 5.0, actor, client)
    actor.says(Credit(9))
    assert got(actor) == [4]
    lasts(talk, 5.0, actor, client)

    assert not talk.broker.limits.keys


def test_a_rate_that_nobody_took_of_is_forgotten_as_well():
    """After its start a broker takes it for given away: whoever waited then, and left, left it."""
    talk = limited("web=2:rate=1/s:per-key", recovered=False)
    client = talk.client().submits(1, 2, 3, call=call(limits={"web[a]": 1}))
    actor = talk.actor(free=9, slots={"slot": 9})
    assert talk.broker.limits.keys

    client.says(Cancel([1, 2, 3]))
    lasts(talk, 6.0, actor, client)

    assert not talk.broker.limits.keys


def test_a_run_that_waited_does_not_take_from_a_rate_again():
    """Each wait for a call of its own cost a task one more of the limit that it began with."""
    talk = limited("web=2:rate=1/h", "db=1", recovered=False)
    talk.wait(7200.0)
    actor = talk.actor(free=9, slots={"slot": 9})
    talk.client().submits(1, call=call(limits={"web": 1}))
    talk.client(2).submits(1, call=call(limits={"web": 1, "db": 1}))
    assert got(actor) == [1, 1]
    actor.says(Release(EPOCH, 1, None), Release(EPOCH, 2, None), Credit(9))

    actor.says(Occupy(EPOCH, 1, 0, {"web": 1}, []), Occupy(EPOCH, 2, 0, {"web": 1, "db": 1}, []))

    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 0), Occupied(EPOCH, 2, 0)]
    assert len(talk.broker.limits.keys["db"].holders) == 1


def test_a_broker_does_not_spin_where_a_rate_has_room_and_no_actor_is_free():
    talk = limited("web=2:rate=1/s", recovered=False)
    actor = talk.actor(free=1)
    for incarnation in (1, 2, 3):
        talk.client(incarnation).submits(1, 2, call=call(limits={"web": 1}))

    talk.wait(talk.settings.adopt_window_s, beating=[actor])

    assert talk.broker.limits.room("web") >= 1
    assert talk.broker.limits.deadline() > talk.now + 0.01


def test_what_a_rate_has_taken_is_back_when_the_limit_has_no_rate_any_more():
    talk = limited("web=2:rate=1/s", recovered=False)
    talk.wait(4.0)
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, 3, call=call(limits={"web": 1}))
    assert got(actor) == [1, 2]
    ends(actor, 1, 9)
    ends(actor, 2, 9)

    ask(client, "limit-set", setting(name="web", maximum=2))

    assert got(actor) == [3]


# --- strategies


def test_nobody_is_canceled_for_a_task_that_another_limit_turns_away():
    talk = limited("old=1:strategy=cancel-newest", "new=1:strategy=cancel-in-progress")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, call=call(limits={"new": 1}))
    client.submits(2, call=call(limits={"old": 1}), slot=1)
    assert got(actor) == [1, 2]

    client.submits(3, call=call(limits={"new": 1, "old": 1}), slot=2)

    assert list(failures(client)) == [3]
    assert actor.takes(Stop) == []


def test_the_newest_is_canceled_where_that_is_the_strategy():
    talk = limited("api=1:per-key:strategy=cancel-newest")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, call=call(limits={"api[a]": 1}))
    client.submits(3, call=call(limits={"api[b]": 1}), slot=1)

    assert got(actor) == [1, 3]
    assert failures(client)[2].code == Code.CANCELED
    ends(actor, 1, 9)
    client.submits(4, call=call(limits={"api[a]": 1}))
    assert got(actor) == [4]


def test_what_runs_is_canceled_by_what_comes_where_that_is_the_strategy():
    talk = limited("api=1:per-key:strategy=cancel-in-progress")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, call=call(limits={"api[a]": 1}))
    got(actor)

    client.submits(2, call=call(limits={"api[a]": 1}))
    client.submits(3, call=call(limits={"api[a]": 1}))

    assert {n: f.code for n, f in failures(client).items()} == dict.fromkeys((1, 2), Code.CANCELED)
    assert [stop.number for stop in actor.takes(Stop)] == [1]
    assert got(actor) == []
    actor.says(Vacate(EPOCH, 1))
    assert got(actor) == [3]


@pytest.mark.parametrize(
    ("strategy", "canceled"),
    [(Strategy.CANCEL_NEWEST, [4]), (Strategy.CANCEL_IN_PROGRESS, [1, 2, 3])],
)
def test_a_strategy_that_comes_later_counts_those_that_were_there(strategy, canceled):
    talk = limited("db=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, 3, call=call())
    assert got(actor) == [1]

    define(talk.broker, Definition(name="db", maximum=1, strategy=strategy))
    client.submits(4, call=call())

    assert sorted(failures(client)) == canceled


def test_a_limit_without_keys_has_nobody_to_take_turns():
    with pytest.raises(ValueError, match="it must be per key"):
        read_definition("api=5:strategy=round-robin")


def test_keys_take_turns_where_that_is_the_strategy():
    talk = limited("api=5:per-key:strategy=round-robin")
    actor = talk.actor(slots={"slot": 9})
    client = talk.client().submits(1, 2, 3, 4, call=call(limits={"api[a]": 1}))
    client.submits(5, 6, call=call(limits={"api[b]": 1}), slot=1)

    actor.says(Credit(4))

    assert sorted(got(actor)) == [1, 2, 5, 6]


# --- orders and answers


def setting(**fields):
    return json.dumps(fields)


def test_a_limit_can_be_set_raised_lowered_and_deleted():
    talk = limited()
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client()
    assert ask(client, "limit-set", setting(name="db", maximum=1)) == {"done": "limit-set"}
    client.submits(1, 2, 3, 4, call=call())
    assert got(actor) == [1]

    ask(client, "limit-set", setting(name="db", maximum=3))
    assert got(actor) == [2, 3]
    ask(client, "limit-set", setting(name="db", maximum=1))
    ends(actor, 1, 9)
    ends(actor, 2, 9)
    assert got(actor) == []
    ask(client, "limit-delete", "db")

    assert failures(client)[4].code == Code.LIMIT_UNKNOWN
    ends(actor, 3, 9)
    assert not talk.broker.limits.keys


@pytest.mark.parametrize("what", ["limit-set", "limit-delete"])
def test_what_was_held_while_its_limit_was_lowered_is_told_and_holds_up_nobody(what):
    talk = limited("db=2", "web=1", recovered=False)
    actor, client = talk.actor(free=9, slots={"slot": 9}), talk.client()
    client.submits(1, call=call(limits={"db": 2}), again=True)
    client.submits(2, call=call(limits={"web": 1}), again=True)

    is_lower = what == "limit-set"
    ask(client, what, setting(name="db", maximum=1) if is_lower else "db")
    lasts(talk, talk.settings.adopt_window_s, actor, client)
    client.submits(3, call=call())

    code = Code.BAD_OPTION if is_lower else Code.LIMIT_UNKNOWN
    assert {n: found.code for n, found in failures(client).items() if n == 1} == {1: code}
    assert got(actor) == ([2, 3] if is_lower else [2])


def test_a_held_call_of_a_named_actor_is_told_as_well():
    talk = limited("db=2", recovered=False)
    actor, client = talk.actor(free=1), talk.client()
    limited_entry = structs.replace(entry(), limits={"db": 2})
    client.says(Function(0, BLOB, b"code"), Template(0, limited_entry))
    client.says(Submit(1, 0, b"", again=True))
    assert talk.state(client, 1) == "held"

    ask(client, "limit-set", setting(name="db", maximum=1))
    lasts(talk, talk.settings.adopt_window_s, actor, client)

    assert failures(client)[1].code == Code.BAD_OPTION
    assert not talk.broker.held


def test_what_is_written_while_its_limit_is_lowered_is_told_and_holds_up_nobody():
    talk = limited("db=2", disk=Disk())
    actor, client = talk.actor(free=9, slots={"slot": 9}), talk.client()
    once = call(limits={"db": 2}, at_most_once=True, durable=True)
    talk.writes = False
    client.submits(1, call=once)
    assert talk.state(client, 1) == "writing"

    client.says(Query(1, "limit-set", setting(name="db", maximum=1)))
    client.submits(2, call=call(), slot=1)
    talk.writes = True
    talk.commits()

    assert [found.code for found in failures(client).values()] == [Code.BAD_OPTION]
    assert got(actor) == [2]


def test_a_holder_can_be_released_by_force():
    talk = limited("db=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, call=call())
    got(actor)
    assert "holds nothing" in ask(client, "limit-release", "1000.2.0")["error"]

    assert ask(client, "limit-release", "1000.1.0") == {"done": "limit-release"}

    assert [told.code for told in actor.takes(Occupied)] == ["released"]
    assert got(actor) == [2]


@pytest.mark.parametrize(
    ("what", "argument"),
    [
        ("limit-set", "{}"),
        ("limit-set", "x"),
        ("limit-set", setting(name="db", maximum=0)),
        ("limit-set", setting(name="d b", maximum=1)),
        ("limit-delete", "nope"),
        ("limit-release", "x.y.z"),
        ("frob", ""),
    ],
)
def test_an_order_that_makes_no_sense_is_answered(what, argument):
    talk = limited()

    assert "error" in ask(talk.client(), what, argument)


def test_explain_names_the_limit_and_its_holders():
    talk = limited("db=1")
    actor = talk.actor(free=9, name="gpu1/0", slots={"slot": 9})
    client = talk.client().submits(1, 2, call=call())
    got(actor)

    told = ask(client, "explain", "2")

    assert "limit db is full: 1 of 1" in told["reason"]
    assert "on gpu1/0" in told["reason"]
    assert told["limits"][0]["holders"][0]["holder"] == "1000.1.0"
    (listed,) = ask(client, "limits")["limits"]
    assert listed["keys"][0]["waiting"] == 1


def test_of_an_actor_with_a_free_slot_explain_says_that_the_limit_is_full_and_who_holds_it():
    talk = limited("db=1")
    talk.actor(12, free=1, name="gpu2/0", slots={"slot": 1})
    client = talk.client().submits(1, call=call())
    talk.actor(11, free=9, name="gpu1/0", slots={"slot": 9})
    client.submits(2, call=call())

    actors = ask(client, "explain", "2")["actors"]

    full = "limit db is full: 1 of 1 (held by 0000000000000001-1 on gpu2/0)"
    assert actors == {"gpu1/0": full, "gpu2/0": f"no free slot (1 task), and {full}"}


def test_after_a_start_explain_says_of_each_actor_that_nobody_knows_yet_who_holds_limits():
    talk = limited("db=1", recovered=False)
    talk.actor(free=1, slots={"slot": 1})
    client = talk.client().submits(1, call=call())

    told = ask(client, "explain", "1")

    waits = "the broker was just started and waits until it knows who holds limits"
    assert (told["reason"], told["actors"]) == (waits, {"host/0": waits})


def test_of_a_call_of_a_named_actor_that_a_limit_keeps_explain_does_not_say_that_no_slot_is_free():
    talk = limited("db=1")
    actor = talk.actor(free=2, slots={"slot": 2})
    client = makes(talk.client())
    actor.ends((EPOCH, 1), free=2)
    client.submits(2, call=call(), slot=2)
    limited_call = structs.replace(named_call(), limits={"db": 1})
    client.says(Template(3, limited_call), Submit(3, 3, b""))

    told = ask(client, "explain", "3")

    assert told["reason"] == told["actors"]["host/0"]
    assert told["reason"].startswith("limit db is full: 1 of 1 (held by ")


# --- cost


def test_a_hand_over_looks_at_as_many_as_wait_alone_or_among_ten_thousand():
    def work(waiting):
        talk = limited("db=1")
        actor = talk.actor(free=9, slots={"slot": 9})
        talk.client().submits(*range(1, waiting + 2), call=call())
        with counted_looks(talk) as looks:
            ends(actor, 1, 9)
        return len(looks)

    assert work(10_000) == work(2) < 10


def test_room_that_no_actor_can_use_wakes_one_of_a_thousand_keys():
    def work(keys):
        talk = limited("db=4", "api=1:per-key")
        talk.broker.check = lambda: None
        actor = talk.actor(free=4, slots={"slot": 4})
        client = talk.client()
        for key in range(keys):
            wanted = {"db": 1, f"api[{key}]": 1}
            client.submits(2 * key + 1, 2 * key + 2, call=call(limits=wanted), slot=key)
        running = [assign.number for assign in actor.takes(Assign)]
        with counted_looks(talk) as looks:
            for _ in range(20):
                # The limit comes back, and then the slot.
                actor.says(Outcome(EPOCH, running.pop(0), Status.RESULT, b""), Credit(0))
                actor.says(Credit(1))
                running += [assign.number for assign in actor.takes(Assign)]
        return len(looks)

    assert work(1_000) <= 2 * work(20)


# --- against a slow model


def test_random_histories_keep_every_rule():
    for seed in range(60):
        wander(seed)


def wander(seed):
    """Let clients and runs do anything; `check` of the core looks on after every step."""
    rng = random.Random(seed)
    talk = limited("a=2", "b=3", "k=1:per-key")
    host = machine(talk, 0, gpu=2)
    actor = talk.actor(free=5, slots={"slot": 5}, host=90)
    client = talk.client()
    names = ["a", "b", "k[x]", "k[y]", "host:gpu"]
    running, asks, serial = {}, {}, 0
    for _ in range(120):
        for assign in actor.takes(Assign):
            running[assign.number] = assign.task
        for told in actor.takes(Occupied):
            assert (told.number, told.ask) in asks
        deed = rng.random()
        if deed < 0.35:
            serial += 1
            wanted = {n: rng.choice((1, 1, 2)) for n in rng.sample(names, rng.choice((1, 1, 2)))}
            wanted = {n: 1 if n.startswith("k") else amount for n, amount in wanted.items()}
            client.submits(serial, call=call(limits=wanted, priority=rng.choice((0, 0, 3))))
        elif deed < 0.6 and running:
            number = rng.choice(sorted(running))
            del running[number]
            asks = {key: value for key, value in asks.items() if key[0] != number}
            actor.says(Outcome(EPOCH, number, Status.RESULT, b""), Credit(5 - min(5, len(running))))
        elif deed < 0.75 and running:
            number = rng.choice(sorted(running))
            asks[number, serial + 1000] = None
            serial += 1
            actor.says(Occupy(EPOCH, number, serial + 999, {rng.choice(names): 1}))
        elif deed < 0.85 and asks:
            number, asked = rng.choice(sorted(asks))
            actor.says(Vacate(EPOCH, number, asked))
        elif deed < 0.95 and serial:
            client.says(Cancel([rng.randint(1, serial)]))
            for stop in actor.takes(Stop):
                if running.pop(stop.number, None):
                    actor.says(Vacate(EPOCH, stop.number), Credit(5 - min(5, len(running))))
        else:
            talk.wait(0.25)
            host.says(Beat())
            actor.says(Credit(5 - min(5, len(running))))
    for _ in range(serial + 5):
        for assign in actor.takes(Assign):
            running[assign.number] = assign.task
        for number in sorted(running):
            actor.says(Outcome(EPOCH, number, Status.RESULT, b""))
        running.clear()
        actor.says(Credit(5))
    assert not talk.broker.limits.keys
    assert not talk.broker.backlog.count


def test_a_call_that_has_its_own_caller_canceled_ends_with_it():
    """Found by a seed: the broker looked for the new call in the backlog before it stood there."""
    talk = limited("api=1:per-key:strategy=cancel-in-progress")
    actor = talk.actor(free=1)
    client = talk.client().submits(1, call=call(limits={"api[a]": 1}))
    assert got(actor) == [1]

    client.submits(2, call=call(limits={"api[a]": 1}), slot=1, parent=(EPOCH, 1))

    assert {n: failure.code for n, failure in failures(client).items()} == {
        1: Code.CANCELED,
        2: Code.PARENT_GONE,
    }


def test_while_nothing_can_be_written_an_operator_is_told_why():
    talk = limited("db=1")
    client = talk.client()
    talk.broker.journal_stuck("database or disk is full")

    says = ask(client, "limit-set", json.dumps({"name": "db", "maximum": 2}))

    assert "database or disk is full" in says["error"]
    assert talk.broker.limits.definitions["db"].maximum == 1
    talk.broker.journal_stuck("")
    assert ask(client, "limit-set", json.dumps({"name": "db", "maximum": 2})) == {
        "done": "limit-set"
    }


def test_who_waits_for_a_disk_that_is_full_is_told_why():
    talk = limited("db=1")
    client = talk.client()
    definition = json.dumps({"name": "db", "maximum": 2})
    client.says(Query(1, "limit-set", definition), silently=True)
    talk.broker.take_operations()

    talk.broker.journal_stuck("database or disk is full")
    talk.flush()

    [answer] = client.takes(Answer)
    assert "it is done, and will be written" in msgspec.msgpack.decode(answer.body)["error"]
