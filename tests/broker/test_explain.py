"""Why a task waits, in words."""

import pytest

from broker.events import explain
from broker.events.defining import define
from broker.holding import occupants
from tests.broker.conversation import CODE, Conversation, ask, attested
from tests.support.disk import Disk
from wire.labels import Comparator, Desire
from wire.limits import Definition
from wire.messages import ActorBeat, Assign, Await, Beat, Cancel, Credit, Death, Occupy, Reject
from wire.parts import Call

LARGE = Desire("memory", Comparator.GREATER_THAN, 256)


@pytest.fixture
def talk():
    return Conversation()


def test_without_actors(talk):
    assert ask(talk.client().submits(7), "explain", "7")["reason"] == "no actor is connected"


def test_without_actors_of_a_host_that_is_there(talk):
    talk.host(90, name="gpu1")
    client = talk.client().submits(7)
    reason = ask(client, "explain", "7")["reason"]
    assert reason == "no actor is connected: host gpu1 has none that runs, see the log there"

    talk.host(91, name="gpu2", actors=[attested(11)])
    reason = ask(client, "explain", "7")["reason"]
    assert reason == "no actor is connected: host gpu2 has one that starts"

    talk.host(92, name="gpu3", actors=[attested(12)])
    reason = ask(client, "explain", "7")["reason"]
    assert reason == "no actor is connected: hosts gpu2, gpu3 have one that starts"


def test_without_actors_of_hosts_that_are_there(talk):
    client = talk.client().submits(7)
    talk.host(90, name="gpu1")
    talk.host(91, name="gpu2")
    reason = ask(client, "explain", "7")["reason"]
    assert reason.startswith("no actor is connected: hosts gpu1, gpu2 have none that runs")


def test_a_label_that_nobody_offers(talk):
    talk.actor(labels={"memory": 64}, free=1)
    client = talk.client().submits(7, call=Call("work", CODE, desires=[LARGE]))

    reason = ask(client, "explain", "7")["reason"]

    assert reason == ("no connected actor satisfies it (host/0: needs memory gt 256, offers 64)")


def test_those_that_lack_as_much_are_told_of_in_one_order(talk):
    """It was as they had come: one that was started again made another reason of the same."""
    for number in (2, 0, 1):
        talk.actor(20 + number, name=f"h/{number}", labels={"memory": 64})
    client = talk.client().submits(7, call=Call("work", CODE, desires=[LARGE]))

    reason = ask(client, "explain", "7")["reason"]

    lacks = "needs memory gt 256, offers 64"
    assert reason.endswith(f"(h/0: {lacks}; h/1: {lacks}; h/2: {lacks})")


def test_of_one_kind_of_closed_actors_one_is_told_of(talk):
    """Each actor had looked at the memory at another moment, and each share was told."""
    for number, closed in enumerate(("memory: 96%", "paused", "memory: 97%", "memory: 98%")):
        actor = talk.actor(20 + number, name=f"h/{number}")
        actor.says(ActorBeat(Credit(0), 1, {}, [], closed=closed))

    reason = ask(talk.client().submits(7), "explain", "7")["reason"]

    assert reason == "every actor that satisfies it takes no work (memory: 98%, paused)"


def test_those_that_lack_the_least_are_told_of_where_there_are_many(talk):
    for number in range(5):
        name = f"h{number}/0"
        talk.actor(20 + number, name=name, labels={"name": name, "zone": "eu"}, free=1)
    desires = [Desire("name", Comparator.EQUAL, "h4/0"), Desire("zone", Comparator.EQUAL, "us")]
    client = talk.client().submits(7, call=Call("work", CODE, desires=desires))

    answer = ask(client, "explain", "7")

    assert "(h4/0: needs zone eq 'us', offers 'eu'; h0/0: " in answer["reason"]
    assert answer["actors"]["h1/0"] == (
        "needs name eq 'h4/0', offers 'h1/0', and needs zone eq 'us', offers 'eu'"
    )


def test_who_offers_something_else_is_told_of_before_who_offers_nothing(talk):
    for number in range(4):
        talk.actor(20 + number, name=f"h{number}/0", labels={"memory": 64} if number == 3 else {})
    client = talk.client().submits(7, call=Call("work", CODE, desires=[LARGE]))

    assert "(h3/0: needs memory gt 256, offers 64; h0/0: " in ask(client, "explain", "7")["reason"]


def test_of_a_long_list_the_beginning_is_told(talk):
    talk.actor(labels={"customer": "x"}, free=1)
    wanted = Desire("customer", Comparator.IN, [f"customer {n}" for n in range(1000)])
    client = talk.client().submits(7, call=Call("work", CODE, desires=[wanted]))

    reason = ask(client, "explain", "7")["reason"]

    assert "needs customer in ['customer 0', 'customer 1', " in reason
    assert "..., offers 'x'" in reason
    assert len(reason) < 400


def test_of_a_task_with_an_actor_that_is_not_heard_it_says_so(talk):
    talk.actor(11, name="h/0", free=1)
    client = talk.client().submits(7)
    assert ask(client, "explain", "7")["reason"] == "it is with actor h/0"

    talk.wait(3.0)

    assert ask(client, "explain", "7")["reason"] == (
        "it is with actor h/0; that one is suspect, silent for 3.0 s"
    )


def test_an_actor_that_beats_and_receives_nothing_is_not_called_silent(talk):
    actor = talk.actor(11, name="h/0", free=1)
    actor.is_deaf = True
    for _ in range(5):
        talk.wait(1.0)
        actor.says(Beat())

    client = talk.client().submits(7)

    answer = ask(client, "explain", "7")
    assert answer["actors"] == {"h/0": "suspect, receives nothing"}
    reason = "every actor that satisfies it is out of reach (h/0: suspect, receives nothing)"
    assert answer["reason"] == reason


def test_only_who_waits_is_said_to_wait(talk):
    talk.actor(free=1)
    client = talk.client().submits(7, 8)
    talk.wait(1.0)

    tasks = {one["task"][-1]: one["waits_s"] for one in ask(client, "tasks")["tasks"]}

    assert tasks["7"] is None
    assert tasks["8"] >= 1.0


def test_of_an_actor_that_has_other_slots_left_it_says_that_no_plain_one_is(talk):
    actor = talk.actor(slots={"slot": 1, "gpu": 1}, free=1)
    client = talk.client().submits(6, 7)
    actor.says(Credit(0, typed={"gpu": 1}))

    assert ask(client, "explain", "7")["actors"] == {"host/0": "no free slot (1 task)"}


def test_actors_that_are_busy(talk):
    talk.actor(free=1)
    client = talk.client().submits(7, 8)

    assert ask(client, "explain", "8")["reason"] == "every actor that satisfies it is busy (1 of 1)"
    assert ask(client, "explain", "7")["reason"] == "it is with actor host/0"


def test_of_an_actor_with_a_free_slot_it_says_that_the_client_does_not_receive():
    talk = Conversation(window_bytes=100)
    actor = talk.actor(free=1)
    client = talk.client().submits(1, 2)
    (assign,) = actor.takes(Assign)
    actor.ends((actor.epoch, assign.number), b"x" * 100, free=1)

    told = ask(talk.client(2), "explain", f"{client.incarnation:016x}-2")

    assert told["reason"] == told["actors"]["host/0"] == "its client does not receive its results"


def test_slots_of_canceled_runs_that_have_not_returned_are_told(talk):
    actor = talk.actor(11, name="h/0", free=2, slots={"slot": 2})
    client = talk.client().submits(6, 7, 8)
    actor.says(Credit(0))
    assert ask(client, "explain", "8")["actors"]["h/0"] == "no free slot (2 tasks)"
    client.says(Cancel([6, 7]))

    answer = ask(client, "explain", "8")

    assert answer["reason"] == "every actor that satisfies it is busy (1 of 1)"
    told = (
        "no free slot (0 tasks, and 2 slots of canceled or timed out runs that have not returned)"
    )
    assert answer["actors"]["h/0"] == told


def test_each_actor_says_since_when_the_task_could_not_have_it(talk):
    talk.actor(11, name="h/0", free=1, labels={"memory": 512})
    client = talk.client().submits(7)
    talk.actor(12, name="h/1", labels={"memory": 64})
    talk.wait(0.5)
    client.submits(8, call=Call("work", CODE, desires=[LARGE]), slot=1)
    talk.wait(1.0)

    answer = ask(client, "explain", "8")

    assert answer["actors"]["h/0"] == "no free slot (1 task)"
    assert answer["actors_s"]["h/0"] == answer["waits_s"]
    assert answer["actors_s"]["h/1"] == answer["waits_s"] + 0.5


def test_a_slot_type_that_nobody_has(talk):
    talk.actor(free=1)
    client = talk.client().submits(7, call=Call("work", CODE, slots={"gpu": 1}))

    assert "needs 1 of slot gpu, has 0" in ask(client, "explain", "7")["reason"]


def test_an_actor_that_rejected(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (assign,) = actor.takes(Assign)
    actor.says(Reject(actor.epoch, assign.number, "paused"))

    assert ask(client, "explain", "7")["actors"] == {"host/0": "rejected it"}


def test_a_broker_that_recovers():
    talk = Conversation(recovered=False)
    client = talk.client().submits(7, again=True)

    assert "has just started" in ask(client, "explain", "7")["reason"]


@pytest.mark.parametrize("argument", ["99", "", "x", "1-2-3", "zz-1", "9" * 5000, "-", "1-"])
def test_a_task_that_nobody_knows(talk, argument):
    assert ask(talk.client(), "explain", argument)["state"] == "unknown"


@pytest.mark.parametrize("what", ["status", "actors", "clients", "tasks"])
def test_every_query_is_answered_and_changes_nothing(talk, what):
    talk.actor(free=1)
    client = talk.client().submits(7, 8)
    before = talk.broker.backlog.count

    assert "error" not in ask(client, what)
    assert talk.broker.backlog.count == before


def test_the_status_of_a_broker_with_many_tasks_looks_at_none_of_them(talk):
    class Untouched(dict):
        def values(self):
            raise AssertionError("it went through all tasks")

    talk.actor(free=1)
    client = talk.client().submits(7, 8, 9)
    known = talk.broker.clients[client.incarnation]
    tasks, known.tasks = known.tasks, Untouched(known.tasks)

    status = explain.status(talk.broker, talk.now)

    known.tasks = tasks
    assert (status["queued"], status["assigned"], status["ended"]) == (2, 1, 0)


def test_the_status_says_whether_durable_tasks_can_be_written(talk):
    assert explain.status(talk.broker, talk.now)["journal"] == "none"

    talk.broker.records.has_journal = True
    talk.broker.journal_stuck("disk is full")

    assert explain.status(talk.broker, talk.now)["journal"] == "cannot be written: disk is full"


def test_a_query_that_makes_no_sense(talk):
    assert "unknown query" in ask(talk.client(), "weather")["error"]


def test_a_task_can_be_named_in_full(talk):
    client = talk.client().submits(7)
    name = talk.task(client, 7).name

    assert ask(talk.client(2), "explain", name)["task"] == name


def test_a_full_limit_of_its_host_is_named(talk):
    talk.host(limits={"gpu": 1})
    talk.actor(free=2, slots={"slot": 2})
    wanted = Call("work", CODE, limits={"host:gpu": 1})
    client = talk.client().submits(7, 8, call=wanted)

    reason = ask(client, "explain", "8")["reason"]

    holder = f"{client.incarnation:016x}-7"
    assert reason == (
        "every actor that satisfies it has no room"
        f" (limit host:gpu of its host: 1 of 1 held by {holder})"
    )


def test_a_run_that_waits_for_a_limit_from_inside(talk):
    define(talk.broker, Definition(name="db", maximum=1))
    actor = talk.actor(free=2, slots={"slot": 2})
    client = talk.client().submits(7, 8)
    tokens = [assign.number for assign in actor.takes(Assign)]

    actor.says(*(Occupy(1000, number, 1, {"db": 1}, []) for number in tokens))

    assert ask(client, "explain", "7")["reason"] == "it is with actor host/0"
    assert ask(client, "explain", "8")["reason"] == (
        "it is with actor host/0, and waits there: limit db is full: 1 of 1"
        f" (held by {client.incarnation:016x}-7 on host/0)"
    )


def test_a_run_that_waits_for_calls_of_its_own_or_for_its_slots(talk):
    actor = talk.actor(free=2, slots={"slot": 2})
    client = talk.client(1).submits(7, 8)
    first, second = (assign.number for assign in actor.takes(Assign))

    actor.says(Await(1000, first, 1, 1, [(8, 8), (10, 12)], 4), Await(1000, second, -1))

    name = f"{client.incarnation:016x}"
    assert ask(client, "explain", "7")["reason"] == (
        f"it is with actor host/0, and waits there: for {name}-8, {name}-10, {name}-11 and 1 more"
    )
    assert ask(client, "explain", "8")["reason"] == (
        "it is with actor host/0, and waits there: for its slots again"
    )


def test_of_a_run_that_waits_for_a_call_it_said_nothing_of_the_pause_that_keeps_that(talk):
    actor = talk.actor(free=1)
    client = talk.client(1).submits(7)
    (first,) = (assign.number for assign in actor.takes(Assign))
    client.submits(8, 9)
    held = [(actor.epoch, first)]
    actor.says(ActorBeat(Credit(0), 1, {}, held, closed="paused"))

    actor.says(Await(1000, first, 1, 1, [(8, 9)], 2))

    name = f"{client.incarnation:016x}"
    assert ask(client, "explain", "7")["reason"] == (
        f"it is with actor host/0, and waits there: for {name}-8, {name}-9;"
        f" {name}-8 has no actor: every actor that satisfies it takes no work (paused)"
    )


def test_a_task_that_nobody_could_take_says_so_though_its_limit_is_full_as_well(talk):
    define(talk.broker, Definition(name="db", maximum=1))
    talk.actor(labels={"memory": 64}, free=2, slots={"slot": 2})
    client = talk.client().submits(7, call=Call("work", CODE, limits={"db": 1}))
    wanted = Call("large", CODE, limits={"db": 1}, desires=[LARGE])

    answer = ask(client.submits(8, call=wanted, slot=1), "explain", "8")

    assert answer["reason"] == (
        "no connected actor satisfies it (host/0: needs memory gt 256, offers 64); and limit db is"
        f" full: 1 of 1 (held by {client.incarnation:016x}-7 on host/0)"
    )
    assert answer["satisfiable"] is False


def test_of_an_actor_all_is_told_that_keeps_the_task_from_it_for_good(talk):
    actor = talk.actor(11, labels={"memory": 64}, free=1, slots={"slot": 1, "gpu": 1})
    client = talk.client()
    actor.says(ActorBeat(Credit(0), 1, {}, [], {}, "paused"))
    wanted = Call("work", CODE, desires=[LARGE], slots={"gpu": 2})

    answer = ask(client.submits(8, call=wanted), "explain", "8")

    assert answer["actors"]["host/0"] == (
        "needs memory gt 256, offers 64, and needs 2 of slot gpu, has 1, and takes no work: paused"
    )


def test_an_actor_in_which_a_task_must_be_alone_is_not_called_silent(talk):
    actor = talk.actor(free=2, slots={"slot": 2})
    host = talk.host(actors=[attested(11)])
    client = talk.client().submits(1, 2)
    tokens = [(1000, assign.number) for assign in actor.takes(Assign)]
    host.says(Death(11, None, 11, tokens))
    talk.actor(12, name="host/1", free=2, slots={"slot": 2})

    client.submits(3)

    assert ask(client, "explain", "3")["reason"] == (
        "every actor that satisfies it is kept for a task that must be alone (host/1)"
    )


def test_of_many_holders_some_are_listed_and_the_others_counted(talk):
    define(talk.broker, Definition(name="db", maximum=1_000))
    define(talk.broker, Definition(name="api", maximum=1, per_key=True))
    talk.actor(free=300, slots={"slot": 300})
    client = talk.client().submits(*range(1, 151), call=Call("work", CODE, limits={"db": 1}))
    client.submits(200, call=Call("keyed", CODE, limits={"api[a]": 1}), slot=1)

    ((key,), (keyed,)) = (one["keys"] for one in ask(client, "limits")["limits"])
    ((named,),) = (one["keys"] for one in ask(client, "limits", "db")["limits"])

    assert (len(key["holders"]), key["holders_more"], key["used"]) == (100, 50, 150)
    assert (len(named["holders"]), named["holders_more"]) == (150, 0)
    assert [one["keys"] for one in ask(client, "limits", "api[a]")["limits"]] == [[keyed]]
    assert [one["keys"] for one in ask(client, "limits", "api[b]")["limits"]] == [[]]
    assert ask(client, "limits", "nothing")["limits"] == []


def test_of_many_keys_some_are_listed_and_the_others_counted(talk, monkeypatch):
    monkeypatch.setattr(occupants, "KEYS_LISTED_MAX", 2)
    define(talk.broker, Definition(name="api", maximum=1, per_key=True))
    talk.actor(free=3, slots={"slot": 3})
    client = talk.client()
    for number in range(3):
        limits = {f"api[{number}]": 1}
        client.submits(number + 1, call=Call(f"work{number}", CODE, limits=limits), slot=number)

    (limit,) = ask(client, "limits")["limits"]

    assert (len(limit["keys"]), limit["keys_more"]) == (2, 1)


@pytest.mark.parametrize(
    "what",
    [
        "explain",
        "dead",
        "dead-forget",
        "cancel",
        "limit-delete",
        "limit-release",
        "pause",
        "environment-retry",
    ],
)
def test_what_is_not_there_was_named_in_all_its_length(talk, what):
    answer = ask(talk.client(), what, "k" * 10_000)

    assert len(answer.get("error") or answer["reason"]) < 300


def ended(talk, client, *, call=None):
    """Let a call of *client* end; return what another one is told of it."""
    actor = talk.actor(free=1)
    (assign,) = (client.submits(7, call=call) and actor).takes(Assign)
    actor.ends((actor.epoch, assign.number), b"r")
    return f"{client.incarnation:016x}-7"


def test_an_outcome_that_was_not_received_is_told_of(talk):
    client = talk.client()
    name = ended(talk, client)

    there = ask(talk.client(2), "explain", name)["reason"]
    client.vanishes()
    away = ask(talk.client(3), "explain", name)["reason"]

    assert there == "it has ended, and its client has not received the outcome"
    assert away == "it has ended, and its client, which is away, has not received the outcome"


def test_an_outcome_that_the_disk_has_no_room_for_is_told_of():
    talk = Conversation(disk=Disk())
    client = talk.client()
    talk.writes = False
    name = ended(talk, client, call=Call("keep", CODE, durable=True))

    waits = ask(talk.client(2), "explain", name)["reason"]
    talk.broker.journal_stuck("database or disk is full")
    stuck = ask(talk.client(3), "explain", name)["reason"]
    talk.broker.journal_stuck("")
    talk.commits()
    told = ask(talk.client(4), "explain", name)["reason"]

    assert waits == "it has ended, and its outcome is told once the journal has it"
    assert stuck == f"{waits}, which cannot be written: database or disk is full"
    assert told == "it has ended, and its client has not received the outcome"


def test_an_outcome_that_nobody_has_come_for_since_a_restart_is_told_of():
    talk = Conversation(recovered=False)
    talk.actor(kept=[(1, 7, (900, 1))]).ends((900, 1), b"r")

    reason = ask(talk.client(2), "explain", f"{1:016x}-7")["reason"]

    assert reason == "it has ended, and no client has come for it since the broker was started"
