"""Time: suspicion, leases, attestation, clients that are gone, and the broker's own sleep."""

import pytest

from broker.events import explain
from broker.tasks import forgetting
from tests.broker.conversation import CODE, Conversation, ask, attested
from wire.messages import (
    ActorBeat,
    Assign,
    Beat,
    Bye,
    Cancel,
    ClientHello,
    Credit,
    Kill,
    OutcomeAck,
    Requeued,
    Result,
    Stop,
    Who,
)
from wire.parts import Call, Status


@pytest.fixture
def talk():
    return Conversation()


def running(talk, **fields):
    """Return an actor with a task, its client, and the token."""
    actor = talk.actor(free=1, **fields)
    client = talk.client().submits(7)
    (assign,) = actor.takes(Assign)
    return actor, client, (actor.epoch, assign.number)


def test_each_peer_hears_a_heartbeat_every_second(talk):
    peers = [talk.client(), talk.actor(), talk.host()]

    talk.wait(3.1)

    assert [len(peer.takes(Beat)) for peer in peers] == [3, 3, 3]


def test_a_silent_actor_is_suspect_after_two_seconds_and_gets_nothing(talk):
    actor = talk.actor(free=1)
    talk.wait(2.0)

    client = talk.client().submits(7)

    assert actor.takes(Assign) == []
    assert talk.noted("actor_suspect")
    actor.says(Credit(1))
    talk.wait(0.3)
    assert len(actor.takes(Assign)) == 1
    assert talk.state(client, 7) == "assigned"


def test_a_deaf_actor_is_suspect_although_it_beats(talk):
    actor = talk.actor(free=1)
    actor.is_deaf = True

    for _ in range(5):
        talk.wait(1.0)
        actor.says(Beat())

    assert talk.broker.actors[11].is_suspect


def test_a_silent_actor_loses_its_lease_after_five_seconds(talk):
    _, client, _ = running(talk)

    talk.wait(4.5, beating=[client])
    assert talk.state(client, 7) == "assigned"
    talk.wait(1.0, beating=[client])

    assert talk.state(client, 7) == "queued"
    assert client.takes(Requeued)[0].tries == 1


def test_whoever_asks_is_told_since_when_an_actor_is_lost_and_what_its_tasks_came_to(talk):
    actor = talk.actor(free=3)
    client = talk.client().submits(7, 8)
    client.submits(9, call=Call("pay", CODE, at_most_once=True), slot=1)
    talk.wait(4.5, beating=[client])
    assert ask(client, "actors")["lost"] == []

    talk.wait(2.0, beating=[client])

    answer = ask(client, "actors")
    assert answer["actors"] == []
    [lost] = answer["lost"]
    assert (lost["name"], lost["host"], lost["incarnation"]) == ("host/0", "host", 11)
    assert lost["silent_s"] == pytest.approx(6.5)
    assert lost["tasks"] == {"again": 2, "ended": 1, "dropped": 0}

    actor.connects()
    actor.greets()
    assert ask(client, "actors")["lost"] == []


def test_an_actor_whose_name_has_another_process_is_told_as_lost_no_more(talk):
    talk.actor()
    client = talk.client()
    talk.wait(6.0, beating=[client])

    talk.actor(12)

    assert ask(client, "actors")["lost"] == []


def test_an_actor_that_is_lost_for_a_day_is_told_of_no_more(talk, monkeypatch):
    monkeypatch.setattr(explain, "LOST_TOLD_S", 20.0)
    talk.actor()
    client = talk.client()
    talk.wait(19.0, beating=[client])
    assert len(ask(client, "actors")["lost"]) == 1

    talk.wait(2.0, beating=[client])

    assert ask(client, "actors")["lost"] == []


def test_an_actor_that_leaves_in_order_is_not_told_as_lost(talk):
    actor, client, _ = running(talk)

    actor.says(Bye("drained"))
    assert ask(client, "actors")["lost"] == []

    [left] = talk.noted("actor_left")
    assert (left["reason"], left["tasks"]) == ("drained", 1)
    assert not talk.noted("actor_lost")


def test_an_actor_that_beats_keeps_its_lease(talk):
    actor, client, token = running(talk)

    for _ in range(20):
        actor.beats(holding=[token])
        talk.wait(1.0, beating=[client])

    assert talk.state(client, 7) == "assigned"


@pytest.mark.parametrize(
    ("grows", "stopped", "survives"),
    [(True, False, True), (False, False, False), (True, True, False)],
    ids=["at work", "idle", "stopped"],
)
def test_only_an_actor_that_its_host_sees_at_work_is_kept(talk, grows, stopped, survives):
    host = talk.host(actors=[attested(11)])
    _, client, _ = running(talk)

    for second in range(20):
        seen = attested(11, cpu_s=second + 2.0 if grows else 1.0, stopped=stopped)
        host.says(beat_of(seen))
        talk.wait(1.0, beating=[client])

    assert (talk.state(client, 7) == "assigned") == survives
    assert len(host.takes(Kill)) == (0 if survives or stopped else 1)


def test_an_attested_actor_is_killed_after_its_grace(talk):
    host = talk.host(actors=[attested(11)])
    _, client, _ = running(talk)

    for second in range(62):
        host.says(beat_of(attested(11, cpu_s=second + 2.0)))
        talk.wait(1.0, beating=[client])

    assert [kill.incarnation for kill in host.takes(Kill)] == [11]
    assert talk.state(client, 7) == "queued"


def test_a_silent_host_attests_nobody(talk):
    talk.host(actors=[attested(11)])
    _, client, _ = running(talk)

    talk.wait(6.0, beating=[client])

    assert talk.broker.hosts == {}
    assert talk.state(client, 7) == "queued"


def test_five_losses_end_a_task(talk):
    client = talk.client().submits(7)
    for incarnation in range(11, 16):
        talk.actor(incarnation, free=2)
        talk.wait(6.0, beating=[client])

    assert talk.noted("task_ended")[0]["code"] == "poison-task"


def test_a_lost_actor_that_comes_back_is_told_to_stop(talk):
    actor, client, token = running(talk)
    talk.wait(6.0, beating=[client])
    other = talk.actor(12, name="host/1", free=1)
    assert len(other.takes(Assign)) == 1

    actor.connects()
    actor.greets(held(actor, [(1, 7, token, "running")]))

    assert [(stop.epoch, stop.number) for stop in actor.takes(Stop)] == [token]


def test_a_divergent_beat_ends_the_session(talk):
    actor, client, _ = running(talk)

    actor.beats(holding=[])

    assert actor.takes(Who) == [Who()]
    actor.greets()
    assert talk.state(client, 7) == "queued"


def test_a_client_that_is_gone_for_ten_seconds_loses_its_tasks(talk):
    actor, client, token = running(talk)
    client.vanishes()

    talk.wait(9.5, beating=[])
    assert talk.broker.clients
    for _ in range(2):
        actor.beats(holding=[token])
        talk.wait(1.0)

    assert talk.broker.clients == {}


def test_a_client_that_is_silent_and_connected_keeps_its_tasks(talk):
    client = talk.client().submits(7)

    talk.wait(60.0)

    assert talk.state(client, 7) == "queued"


def test_a_broker_that_slept_blames_nobody(talk):
    actor, client, token = running(talk)
    host = talk.host(actors=[attested(11)])

    talk.sleep(120.0)
    talk.wake()
    actor.beats(holding=[token])
    talk.wait(1.0, beating=[host, client])

    assert talk.state(client, 7) == "assigned"
    assert talk.noted("stalled")
    assert talk.broker.hosts


def test_a_broker_that_slept_still_finds_who_died_in_its_sleep(talk):
    _, client, _ = running(talk)

    talk.sleep(120.0)
    talk.wake()
    talk.wait(6.0, beating=[client])

    assert talk.state(client, 7) == "queued"


def test_a_cancel_of_a_lost_task_does_no_harm(talk):
    _, client, _ = running(talk)
    talk.wait(6.0, beating=[client])

    client.says(Cancel([7]))

    assert talk.state(client, 7) is None
    assert talk.broker.backlog.count == 0


def test_an_unreachable_peer_is_not_lost_at_once(talk):
    actor, client, token = running(talk)

    actor.vanishes()
    assert talk.state(client, 7) == "assigned"
    actor.connects()
    actor.greets(held(actor, [(1, 7, token, "running")]))

    assert talk.state(client, 7) == "assigned"


def beat_of(*seen):
    from wire.messages import HostBeat

    return HostBeat(list(seen))


def held(actor, holding):
    from tests.broker.conversation import actor_hello

    return actor_hello(actor.incarnation, name=actor.name, holding=holding)


def test_names_of_lost_actors_do_not_gather(monkeypatch):
    monkeypatch.setattr(forgetting, "LOST_KEPT", 5)
    talk = Conversation()
    stays = talk.actor(10, name="host/stays")
    for number in range(20):
        talk.actor(100 + number, name=f"host/{number}")
    talk.wait(70.0, beating=[stays])
    assert set(talk.broker.actors_by_name) == {"host/stays"} | {f"host/{n}" for n in range(15, 20)}


def draining(actor):
    actor.says(ActorBeat(Credit(0), 1, {}, [], {}, "draining"))


def test_a_host_that_leaves_does_not_wait_for_the_results_of_a_killed_client(talk):
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1)
    (assign,) = actor.takes(Assign)
    token = (actor.epoch, assign.number)
    client.is_deaf = True
    actor.ends(token)
    draining(actor)

    talk.wait(2.0)
    assert actor.takes(OutcomeAck) == []
    client.vanishes()
    talk.wait(1.0)
    (ack,) = actor.takes(OutcomeAck)

    assert ack.accepted == [token]
    actor.says(Bye("drained"))
    client.is_deaf = False
    client.connects()
    client.greets(ClientHello(client.incarnation, "client", "3.11", [(1, 1)]))
    assert [result.status for result in client.takes(Result)] == [Status.RESULT]


def test_an_actor_that_stays_keeps_the_results_of_a_client_that_is_away(talk):
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1)
    (assign,) = actor.takes(Assign)
    client.is_deaf = True
    actor.ends((actor.epoch, assign.number))

    client.vanishes()
    talk.wait(2.0)

    assert actor.takes(OutcomeAck) == []


def test_an_actor_leaves_a_restarted_broker_though_nobody_claims_what_it_kept():
    talk = Conversation(recovered=False)
    client, token = talk.client(), (7, 1)
    actor = talk.actor(kept=[(client.incarnation, 1, token, False)])
    actor.ends(token)
    draining(actor)

    talk.wait(1.0)

    (ack,) = actor.takes(OutcomeAck)
    assert ack.accepted == [token]
