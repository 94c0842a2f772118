"""When the broker has hosts start more actors, and when it lets some go."""

import pytest

from broker.placing.replicas import BURST_S
from tests.broker.conversation import CODE, Conversation, attested
from wire.labels import Comparator, Desire
from wire.messages import (
    ActorBeat,
    Assign,
    Beat,
    Bye,
    Credit,
    Drain,
    Entered,
    HostBeat,
    HostHello,
    Outcome,
    Scale,
)
from wire.parts import Call, Environment, Reuse, Status


@pytest.fixture
def talk():
    return Conversation(scale_after_s=1.0, scale_down_s=3.0)


def place(low=0, high=3):
    return Environment("e", "E", CODE, {}, 1, Reuse(low, high, 60.0, 60.0))


def call(environment, **options):
    return Call("m", b"", "m", environment, **options)


def host(talk, incarnation=90, *, low=0, high=3, actors=(), name="host", labels=None):
    """Let a host say HELLO that may start more actors."""
    return talker(
        talk,
        HostHello(incarnation, name, 1, {}, list(actors), low, high, labels or {}, {"slot": 1}),
    )


def talker(talk, hello):
    from tests.broker.conversation import Talker

    return Talker(talk, hello)


def passes(talk, seconds, *peers):
    for _ in range(int(seconds / 0.25)):
        talk.wait(0.25)
        for peer in peers:
            if isinstance(peer.hello, HostHello):
                peer.says(HostBeat(peer.hello.actors))
            else:
                peer.says(Beat())


def scaled(machine):
    return [command.actors for command in machine.takes(Scale)]


def test_a_burst_has_as_many_started_as_the_policy_allows(talk):
    machine = host(talk, high=5)
    client = talk.client().submits(*range(1, 9), call=call(place(0, 3)))

    passes(talk, 1.0, machine, client)

    assert scaled(machine) == [3]


def test_calls_with_copies_of_their_own_have_as_many_started_as_they_could_use(talk):
    """Their class has one replica: theirs are none of those."""
    own = Environment("e", "E", CODE, reuse=Reuse(0, 1, 60.0, 60.0, is_fresh=True))
    machine = host(talk, high=5)
    client = talk.client().submits(1, 2, 3, call=call(own))

    passes(talk, 1.0, machine, client)

    assert scaled(machine) == [3]


def test_a_burst_has_actors_started_as_soon_as_its_calls_are_there(talk):
    client = talk.client()
    machine = host(talk, low=1, high=4, actors=[attested(11)])
    talk.actor(11).says(Credit(1, 0, 1))
    client.submits(*range(1, 81), call=call(place(1, 4)))
    assert scaled(machine) == []

    talk.wait(BURST_S)

    assert scaled(machine) == [4]


@pytest.mark.parametrize("epoch", [0, 999])
def test_a_broker_that_follows_none_has_actors_started_at_once(epoch):
    talk = Conversation(recovered=False)
    client = talk.client()
    machine = host(talk, high=3)
    machine.greets(epoch=epoch)
    client.submits(*range(1, 9), call=call(place(0, 3)))

    talk.wait(0.25)

    # What an earlier one had comes back in the window.
    assert scaled(machine) == ([] if epoch else [3])


def test_no_host_is_asked_for_more_than_its_maximum(talk):
    one, two = host(talk, 90, high=2), host(talk, 91, high=2, name="other")
    client = talk.client().submits(*range(1, 9), call=call(place(0, 3)))

    passes(talk, 1.0, one, two, client)

    assert scaled(one) + scaled(two) == [2, 1]


def test_one_more_is_started_where_the_only_copy_is_idle_in_a_paused_actor(talk):
    """Its tasks waited for the end of the pause."""
    environment = place(1, 1)
    machine = host(talk, actors=[attested(11)], low=1)
    actor = talk.actor(11, host=90).says(Credit(1, 0, 1))
    client = talk.client().submits(1, call=call(environment))
    [assign] = actor.takes(Assign)
    actor.says(Entered(environment, 1.0))
    actor.ends((actor.epoch, assign.number))
    paused = ActorBeat(Credit(0, 0, 0, {"e": 0}), 1, {}, [], {}, "paused")
    actor.says(paused)
    client.submits(2, call=call(environment))

    def passes_paused(seconds):
        for _ in range(int(seconds / 0.25)):
            passes(talk, 0.25, machine, client)
            actor.says(paused)
        return scaled(machine)

    assert passes_paused(0.75) == []
    assert passes_paused(1.0) == [2]


def test_an_actor_that_has_room_is_filled_first(talk):
    machine = host(talk)
    actor = talk.actor(11, name="other/0", host=1).says(Credit(1, 0, 1))
    client = talk.client().submits(1, call=call(place(0, 3)))

    passes(talk, 1.0, machine, client, actor)

    assert actor.takes(Assign)
    assert not scaled(machine)


def test_a_host_whose_actors_would_not_satisfy_is_not_asked(talk):
    small, large = host(talk, 90), host(talk, 91, name="large", labels={"memory": 512})
    wish = Desire("memory", Comparator.GREATER_THAN, 256)
    client = talk.client().submits(1, call=call(place(), desires=[wish]))

    passes(talk, 0.5, small, large, client)

    assert (scaled(small), scaled(large)) == ([], [1])


def test_what_does_not_come_is_asked_for_again(talk):
    machine = host(talk)
    client = talk.client().submits(1, call=call(place()))

    passes(talk, 9.0, machine, client)
    assert scaled(machine) == [1]
    passes(talk, 2.0, machine, client)

    assert scaled(machine) == [1]


def test_a_task_without_environment_waits_for_a_while_first(talk):
    machine = host(talk)
    client = talk.client().submits(1, 2)

    passes(talk, 0.75, machine, client)
    assert not scaled(machine)
    passes(talk, 1.0, machine, client)

    assert scaled(machine) == [1]


def idle(talk, machine, actors, seconds, credit):
    for _ in range(int(seconds / 0.5)):
        talk.wait(0.5)
        machine.says(HostBeat(machine.hello.actors))
        for actor in actors:
            actor.says(ActorBeat(credit, 1, {}, []))


def test_an_actor_above_the_minimum_that_has_nothing_to_do_is_let_go(talk):
    machine = host(talk, low=1, actors=[attested(11), attested(12, name="host/1")])
    first = talk.actor(11, name="host/0").says(Credit(1, 0, 1))
    second = talk.actor(12, name="host/1").says(Credit(1, 0, 1))

    idle(talk, machine, [first, second], 2.5, Credit(1, 0, 1))
    assert not second.takes(Drain)
    idle(talk, machine, [first, second], 10.0, Credit(1, 0, 1))

    assert second.takes(Drain) == [Drain(None, True)]
    assert not first.takes(Drain)


def short_of_memory(talk, seconds, machine, *actors):
    for _ in range(int(seconds / 0.5)):
        talk.wait(0.5)
        machine.says(HostBeat(machine.hello.actors))
        for actor in actors:
            actor.says(ActorBeat(Credit(0), 1, {}, [], {}, "memory: 97% is used"))


@pytest.mark.parametrize("environment", [None, place(1, 3)])
def test_a_host_that_is_short_of_memory_starts_no_more(talk, environment):
    """Each of them took of the memory, and was closed as well."""
    machine = host(talk, low=1, actors=[attested(11)])
    other = host(talk, 91, name="other")
    actor = talk.actor(11, name="host/0").says(Credit(1, 0, 1))
    short_of_memory(talk, 0.5, machine, actor)
    client = talk.client()
    client.submits(1, 2, call=call(environment) if environment else None)

    short_of_memory(talk, 1.5, machine, actor)
    assert (scaled(machine), len(scaled(other))) == ([], 1)
    for _ in range(4):
        talk.wait(0.5)
        machine.says(HostBeat(machine.hello.actors))
        client.says(Beat())
        actor.says(ActorBeat(Credit(0), 1, {}, []))
    talk.wait(10.0)

    assert scaled(machine) != []


@pytest.mark.parametrize("low", [0, 1])
def test_what_a_host_short_of_memory_does_not_need_is_let_go_but_for_one(talk, low):
    found = [attested(11 + index, name=f"host/{index}") for index in range(3)]
    machine = host(talk, low=low, actors=found)
    actors = [talk.actor(11 + index, name=f"host/{index}") for index in range(3)]
    for actor in actors:
        actor.says(Credit(1, 0, 1))

    short_of_memory(talk, 6.0, machine, *actors)

    assert [len(actor.takes(Drain)) for actor in actors] == [0, 1, 1]


def test_who_was_let_go_is_not_waited_for_when_the_next_burst_comes(talk):
    one, both = [attested(11)], [attested(11), attested(12, name="host/1")]
    machine = host(talk, low=1, high=2, actors=one)
    first = talk.actor(11, name="host/0").says(Credit(1, 0, 1))
    client = talk.client().submits(1)
    [kept] = first.takes(Assign)
    client.submits(2, call=call(place()))
    talk.wait(0.25)
    assert scaled(machine) == [2]
    second = talk.actor(12, name="host/1").says(Credit(1, 0, 1))
    machine.says(HostBeat(both))
    [assigned] = second.takes(Assign)
    second.ends((second.epoch, assigned.number))

    def passes_with(actors, seconds):
        for _ in range(int(seconds / 0.5)):
            talk.wait(0.5)
            machine.says(HostBeat(actors))
            client.says(Beat())
            first.says(ActorBeat(Credit(0), 1, {}, [(first.epoch, kept.number)]))
            if len(actors) == 2:
                second.says(ActorBeat(Credit(1, 0, 1), 1, {}, []))

    passes_with(both, 4.0)
    assert second.takes(Drain) == [Drain(None, True)]
    second.says(Bye("drained"))
    passes_with(one, 0.5)
    client.submits(3, call=call(place()))
    passes_with(one, 1.0)

    assert scaled(machine) == [2]


def test_an_actor_that_works_or_holds_a_copy_stays(talk):
    machine = host(talk, low=0, actors=[attested(11)])
    actor = talk.actor(11, name="host/0").says(Credit(1, 0, 1))
    talk.client().submits(1, call=call(place()))
    [assigned] = actor.takes(Assign)
    actor.says(Entered(place(), 1.0), Credit(0, 0, 0, {"e": 0}))
    for _ in range(10):
        talk.wait(0.5)
        machine.says(HostBeat(machine.hello.actors))
        actor.says(ActorBeat(Credit(0, 0, 0, {"e": 0}), 1, {}, [(actor.epoch, assigned.number)]))
    assert not actor.takes(Drain)

    actor.ends((actor.epoch, assigned.number))
    idle(talk, machine, [actor], 10.0, Credit(1, 0, 0, {"e": 1}))

    assert not actor.takes(Drain)


def test_a_host_of_a_fixed_number_is_left_alone(talk):
    machine = host(talk, low=1, high=1, actors=[attested(11)])
    actor = talk.actor(11, name="host/0").says(Credit(1, 0, 1))

    idle(talk, machine, [actor], 10.0, Credit(1, 0, 1))

    assert not actor.takes(Drain)
    assert not scaled(machine)


def lets_go(talk, client, machines, actors, *, seconds, lasts):
    """Have one call after another, each for *lasts* seconds; return the actors that were let go.

    One of them is always in flight, and nobody else has anything.
    """
    gone, end, number = [], talk.now + seconds, 1000
    while talk.now < end:
        number += 1
        client.submits(number)
        [(actor, assign)] = [(one, it) for one in actors for it in one.takes(Assign)]
        token = (actor.epoch, assign.number)
        talk.wait(lasts)
        for one in machines:
            one.says(HostBeat(one.hello.actors))
        for one in actors:
            works = one is actor
            one.says(ActorBeat(Credit(1 - works), 1, {}, [token] if works else []))
        actor.ends(token, free=1)
        client.says(Beat())
        for one in [one for one in actors if one.takes(Drain)]:
            one.says(Bye("drained"))
            actors.remove(one)
            gone.append(one.name)
    return gone


def fill(talk, *counts):
    """Return hosts that have so many actors, of which the first of the first host must stay."""
    machines, actors, number = [], [], 10
    for place, count in enumerate(counts):
        numbers = range(number + 1, number + 1 + count)
        names = [f"host{place}/{index}" for index in range(count)]
        there = [attested(one, name=name) for one, name in zip(numbers, names, strict=True)]
        low = int(place == 0)
        machines.append(host(talk, 90 + place, low=low, high=9, actors=there, name=f"host{place}"))
        actors += [
            talk.actor(one, name=name, host=90 + place).says(Credit(1, 0, 1))
            for one, name in zip(numbers, names, strict=True)
        ]
        number += count
    return machines, actors


@pytest.mark.parametrize("counts", [(4,), (1, 1), (2, 3)])
def test_calls_one_at_a_time_keep_one_actor(talk, counts):
    """They went to each in turn, so that none was ever idle for long enough."""
    machines, actors = fill(talk, *counts)
    client = talk.client()

    lets_go(talk, client, machines, actors, seconds=12.0, lasts=0.5)

    assert [one.name for one in actors] == ["host0/0"]


def test_who_takes_the_place_of_one_that_stayed_is_used_first(talk):
    machines, actors = fill(talk, 1, 1)
    client = talk.client()
    passes(talk, 0.5, *machines, client)
    actors[0].says(Bye("killed"))
    actors[0] = talk.actor(50, name="host0/0", host=90).says(Credit(1, 0, 1))
    machines[0].hello.actors[:] = [attested(50, name="host0/0")]

    gone = lets_go(talk, client, machines, actors, seconds=12.0, lasts=0.5)

    assert gone == ["host1/0"]


def test_calls_that_end_between_two_looks_keep_their_actor(talk):
    """It was let go where every look found it idle, and the next call waited for another one."""
    [machine], [first, second] = fill(talk, 2)
    client = talk.client().submits(1)
    [(busy, kept)] = [(one, it) for one in (first, second) for it in one.takes(Assign)]
    other = second if busy is first else first
    for number in range(2, 40):
        client.submits(number)
        [assign] = other.takes(Assign)
        other.ends((other.epoch, assign.number), free=1)
        talk.wait(0.5)
        machine.says(HostBeat(machine.hello.actors))
        client.says(Beat())
        busy.says(ActorBeat(Credit(0), 1, {}, [(busy.epoch, kept.number)]))
        other.says(ActorBeat(Credit(1, 0, 1), 1, {}, []))

    assert not other.takes(Drain)


def test_one_above_the_minimum_takes_the_place_of_one_that_was_let_go(talk):
    """It came behind another host's, which a call at a time kept, and may not leave itself."""
    machines, actors = fill(talk, 1, 1)
    client = talk.client()
    passes(talk, 0.5, *machines, client)
    machines[0].hello.actors.append(attested(50, name="host0/1"))
    actors.append(talk.actor(50, name="host0/1", host=90).says(Credit(1, 0, 1)))
    passes(talk, 0.5, *machines, client)
    client.submits(1, 2, 3)
    first, *kept = [(one, (one.epoch, it.number)) for one in actors for it in one.takes(Assign)]
    first[0].ends(first[1], free=1)
    for _ in range(20):
        talk.wait(0.25)
        for one in machines:
            one.says(HostBeat(one.hello.actors))
        client.says(Beat())
        first[0].says(ActorBeat(Credit(1), 1, {}, []))
        for one, token in kept:
            one.says(ActorBeat(Credit(0), 1, {}, [token]))
    assert first[0].takes(Drain)
    first[0].says(Bye("drained"))
    actors.remove(first[0])
    for one, token in kept:
        one.ends(token, free=1)

    lets_go(talk, client, machines, actors, seconds=12.0, lasts=0.5)

    assert [one.name for one in actors] == ["host0/1"]


def test_one_that_was_busy_when_it_took_a_place_is_given_tasks_again(talk):
    """It was listed nowhere then, and what it stated next was what it had stated before."""
    [machine], [first, second] = fill(talk, 2)
    client, free = talk.client(), Credit(1, 0, 1)
    passes(talk, 0.5, machine, client)

    def tokens():
        return [(one.epoch, it.number) for one in (first, second) for it in one.takes(Assign)]

    client.submits(1, 2)
    for one, token in zip((first, second), tokens(), strict=True):
        one.says(Outcome(*token, Status.RESULT, b""), free)
    client.submits(3, 4)
    mine, other = tokens()
    first.says(ActorBeat(Credit(0), 1, {}, [mine], {}, "draining"))
    passes(talk, 0.5, machine, client)

    second.says(Outcome(*other, Status.RESULT, b""), free)
    client.submits(5)

    assert [assign.task for assign in second.takes(Assign)] == [5]
