"""Concurrency groups in an actor's core: who is inside together, what comes back in order."""

import pytest
from msgspec import structs

from tests.actor.broker_end import BLOB_HASH, connected, make_core
from tests.actor.test_named import ID, entered
from wire.labels import Desire
from wire.messages import Credit
from wire.parts import Call, Environment, Named

IO = f"{ID}\nio"


@pytest.fixture
def end():
    return connected(make_core(slots=2))


def call(method="incr", *, group="", turns=1):
    named = Named("default", "clicks", "Counter:1", groups={"io": 2})
    environment = Environment(
        ID, "Counter", BLOB_HASH, {}, 1, named=named, turns=turns, group=group
    )
    return Call(method, method=method, environment=environment)


def templates(end):
    """Return the templates of a call of the group without a name, and of two kinds of *io*."""
    return (
        entered(end, end.template(call())),
        end.template(call("read", group="io")),
        end.template(call("scan", group="io", turns=2)),
    )


def test_each_group_has_its_turns_and_all_share_one_slot(end):
    plain, read, _ = templates(end)

    tokens = [end.assign(template) for template in (plain, read, read)]
    end.carry()

    assert set(tokens) <= set(end.started)
    assert end.credit == Credit(1, 0, 1, {ID: 0, IO: 0}, {}, (ID, IO))


def test_one_that_is_alone_has_all_turns_of_its_group(end):
    plain, _, scan = templates(end)

    tokens = [end.assign(scan), end.assign(plain)]
    end.carry()

    assert set(tokens) <= set(end.started)
    assert end.credit.turns == {ID: 0, IO: 0}


def test_what_is_full_takes_nobody_and_who_waits_there_comes_back(end):
    plain, read, scan = templates(end)
    inside = end.assign(read)
    end.carry()

    alone, behind, other = end.assign(scan), end.assign(read), end.assign(plain)
    end.carry()

    assert {inside, other} <= set(end.started)
    assert not {alone, behind} & set(end.started)
    assert {alone, behind} <= set(end.rejected)


def test_what_was_assigned_before_the_broker_knew_of_a_hand_back_comes_back_too(end):
    _, read, scan = templates(end)
    end.assign(read)
    end.carry()
    alone = end.assign(scan)
    end.tell()
    end.turn()
    behind = end.assign(read)

    end.carry()

    assert alone in end.rejected
    assert behind in end.rejected
    later = end.assign(read)
    end.carry()
    assert later in end.started


def entry():
    return call("")


def test_what_is_behind_an_entry_that_was_handed_back_comes_back_in_all_groups():
    end = connected(make_core(slots=1))
    first, read = end.template(entry()), end.template(call("read", group="io"))
    running = end.assign(end.template())
    end.carry()
    entering = end.assign(first)
    end.tell()
    end.turn()
    end.finish(running)
    end.turn()
    behind = end.assign(read)

    end.carry()

    assert set(end.rejected) == {entering, behind}
    later = end.assign(read)
    end.carry()
    assert later in end.started


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_waits_behind_an_entry_that_does_not_satisfy_comes_back_in_all_groups(count):
    """Two or more ended the actor: each took those behind it along, and was then taken itself."""
    end = connected(make_core(slots=2, labels={"memory": 512}))
    needs = Desire("memory", "gt", 256)
    first = end.template(structs.replace(entry(), desires=[needs]))
    read = end.template(call("read", group="io"))
    end.core.change_labels({"memory": 128}, end.now)
    tokens = [end.assign(template) for template in (first, *[read] * count)]

    end.carry()

    assert set(end.rejected) == set(tokens)
    assert end.started == {}


def test_no_call_of_another_group_enters_it_ahead_of_one_that_has_no_slots_yet():
    end = connected(make_core(slots={"slot": 3, "gpu": 1}))
    gpu = structs.replace(call(""), slots={"slot": 1, "gpu": 1})
    end.assign(end.template(slots={"slot": 1, "gpu": 1}))
    end.carry()
    taken = set(end.started)
    tokens = {
        end.assign(end.template(gpu)),
        end.assign(end.template(call("read", group="io"))),
    }

    end.carry()

    assert set(end.rejected) == tokens
    assert set(end.started) == taken


def test_one_that_is_entered_too_late_takes_nobody_and_leaves():
    end = connected(make_core(slots=2, force_grace_s=1.0))
    place = entry().environment
    slow = structs.replace(place, reuse=structs.replace(place.reuse, enter_timeout_s=3.0))
    first = end.template(structs.replace(entry(), environment=slow))
    entering = end.assign(first)
    end.carry()
    end.pass_time(3.1)
    end.turn()
    behind = end.assign(end.template(call("read", group="io")))
    end.carry()
    assert set(end.rejected) == {entering, behind}

    end.core.entered(entering, place, 3.5, end.now)
    end.finish(entering)
    end.carry()

    assert ID not in end.core.mailbox.residents.named.by_id
    assert end.core.entering.take_evictions() == [ID]
