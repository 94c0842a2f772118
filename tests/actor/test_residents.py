"""Environments in the core of an actor: who loads one, whose turn it is, which one leaves."""

from msgspec import structs

from tests.actor.broker_end import connected, environment, make_core, warm
from tests.actor.test_entering import entering, fresh_away, place
from wire.messages import Credit, Evict
from wire.parts import Status


def test_an_environment_is_loaded_by_the_first_and_used_by_the_next():
    end = connected(make_core(slots=2, prefetch=2))
    template = end.template(environment=environment("e", labels={"model": "v2"}))
    first, second = end.assign(template), end.assign(template)
    end.carry()
    assert list(end.started) == [first]
    assert end.started[first].loads
    assert end.credit == Credit(1, 1, 0, {"e": 0})

    warm(end.core, "e", end.now)
    end.carry()
    assert end.labels == {"model": "v2", "environment.e": "warm"}
    assert list(end.started) == [first]

    end.finish(first)
    end.carry()
    assert list(end.started) == [second]
    assert not end.started[second].loads


def test_a_head_whose_turn_is_not_free_is_passed_over():
    end = connected(make_core(slots=2, prefetch=2))
    busy = end.template(environment=environment("e"))
    plain = end.template()
    first, blocked, passing = end.assign(busy), end.assign(busy), end.assign(plain)

    end.carry()

    assert list(end.started) == [first, passing]
    assert blocked in end.core.mailbox.held


def make_room(used, load_s):
    """Use environments in the order of *used* in an actor that holds two; return what leaves."""
    end = connected(make_core(slots=3, environments_max=2))
    templates = {name: end.template(environment=environment(name)) for name in "abc"}
    for name in used:
        token = end.assign(templates[name])
        end.carry()
        warm(end.core, name, end.now, load_s[name])
        end.finish(token)
        end.carry()

    token = end.assign(templates["c"])
    end.carry()

    [left] = end.started[token].evicts
    [stays] = {"a", "b"} - {left}
    assert end.labels == {f"environment.{stays}": "warm"}
    assert end.credit.turns == {stays: 1, "c": 0}
    return left


def test_of_equal_idle_environments_the_least_recently_used_leaves():
    assert make_room("aba", {"a": 0.0, "b": 0.0}) == "b"
    assert make_room("ab", {"a": 0.0, "b": 0.0}) == "a"


def away(**options):
    """Let a run give its turn in "a" back; return the broker's end, and the run's token."""
    end = connected(make_core(slots=3, **options))
    token = end.assign(end.template(environment=environment("a")))
    end.carry()
    warm(end.core, "a", end.now, 30.0)
    assert end.core.release(token, None, end.now)
    end.carry()
    return end, token


def test_a_copy_is_not_given_up_while_a_run_is_to_come_back_to_it():
    end, token = away()
    end.say(Evict("a", "idle"))
    end.carry()
    assert not end.core.entering.take_evictions()
    assert end.credit.turns == {"a": 1}

    end.finish(token)
    end.say(Evict("a", "idle"))
    end.carry()

    assert end.core.entering.take_evictions() == ["a"]


def test_one_that_a_run_is_to_come_back_to_is_the_last_that_leaves():
    end, token = away(environments_max=2)
    # Whatever that saves.
    for _ in range(9):
        other = end.assign(end.template(environment=environment("b")))
        end.carry()
        warm(end.core, "b", end.now, 300.0)
        end.finish(other)
        end.carry()

    entering = end.assign(end.template(environment=environment("c")))
    end.carry()

    assert end.started[entering].evicts == ("b",)
    assert end.started[token].recipe.call.environment.id == "a"


def test_a_call_that_a_run_waits_for_may_take_the_only_place():
    end, token = away(environments_max=1)
    assert end.credit.room == 1

    entering = end.assign(end.template(environment=environment("b")))
    end.carry()
    assert end.started[entering].evicts == ("a",)
    warm(end.core, "b", end.now)
    end.finish(entering)
    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()

    assert end.core.mailbox.held[token].is_inside
    assert end.started[token].evicts == ("b",)


def test_an_idle_environment_leaves_that_is_used_less_often():
    assert make_room("aaab", {"a": 1.0, "b": 1.0}) == "b"


def test_an_idle_environment_leaves_that_is_entered_in_less_time():
    assert make_room("ab", {"a": 30.0, "b": 1.0}) == "b"


def test_what_was_used_often_leaves_once_it_is_used_no_more():
    assert make_room("a" * 300 + "b" * 2, {"a": 1.0, "b": 1.0}) == "b"
    assert make_room("a" * 300 + "b" * 8, {"a": 1.0, "b": 1.0}) == "a"


def test_an_environment_in_use_is_never_evicted():
    end = connected(make_core(slots=2, environments_max=1, prefetch=1))
    first = end.assign(end.template(environment=environment("a")))
    end.carry()
    warm(end.core, "a", end.now)

    second = end.assign(end.template(environment=environment("b")))
    end.carry()

    assert list(end.started) == [first]
    end.finish(first)
    end.carry()
    assert end.started[second].evicts == ("a",)


def test_an_environment_that_cannot_be_loaded_is_cold_again():
    end = connected(make_core(slots=1, prefetch=1))
    template = end.template(environment=environment("a"))
    first, second = end.assign(template), end.assign(template)
    end.carry()

    end.core.environment_lost("a", end.now)
    end.finish(first, Status.FAILURE)
    end.carry()

    assert end.started[second].loads


def test_release_gives_back_the_turn():
    end = connected(make_core(slots=1, prefetch=1))
    template = end.template(environment=environment("a"))
    first, second = end.assign(template), end.assign(template)
    end.carry()
    warm(end.core, "a", end.now)

    end.core.release(first, None, end.now)
    end.carry()

    assert list(end.started) == [first, second]


def test_concurrency_is_the_number_of_turns():
    end = connected(make_core(slots=4, prefetch=1))
    template = end.template(environment=environment("a", concurrency=2))
    tokens = [end.assign(template) for _ in range(3)]
    end.carry()
    warm(end.core, "a", end.now)

    end.carry()

    assert list(end.started) == tokens[:2]
    assert end.credit.turns == {"a": 0}


def test_who_must_be_alone_takes_all_turns():
    end = connected(make_core(slots=4, prefetch=1))
    shared = environment("a", concurrency=3)
    alone = end.template(environment=structs.replace(shared, turns=3))
    first = end.assign(end.template(environment=shared))
    end.carry()
    warm(end.core, "a", end.now)
    end.carry()
    assert end.credit.turns == {"a": 2}

    second = end.assign(alone)
    end.carry()
    assert list(end.started) == [first]
    end.finish(first)
    end.carry()

    assert list(end.started) == [second]
    assert end.credit.turns == {"a": 0}


def spoiled(end, token):
    """Let the `reset` behind a run fail, and the run end."""
    end.core.environment_lost("e", end.now)
    end.finish(token)
    end.carry()


def test_a_copy_whose_reset_failed_is_left_once_nobody_is_inside():
    """It was left at once, under the calls that shared it."""
    end = connected(make_core(slots=2))
    template = end.template(environment=place(concurrency=3))
    first, second = end.assign(template), end.assign(template)
    end.carry()
    warm(end.core, "e", end.now)
    end.carry()
    assert {first, second} <= end.started.keys()

    spoiled(end, first)
    late = end.assign(template)
    end.carry()
    assert not end.core.entering.take_evictions()
    assert end.credit.turns == {"e": 0}
    assert late in end.rejected
    end.finish(second)
    end.carry()

    assert end.core.entering.take_evictions() == ["e"]
    again = end.assign(template)
    end.carry()
    assert end.started[again].loads


def test_who_released_comes_back_to_a_copy_whose_reset_failed_by_entering_it_again():
    end, token = entering(place(), slots=2)
    warm(end.core, "e", end.now)
    end.core.environment_lost("e", end.now)
    assert end.core.release(token, None, end.now)
    end.carry()
    assert end.core.entering.take_evictions() == ["e"]
    assert list(end.core.mailbox.residents.left) == ["e"]

    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()

    assert end.core.mailbox.held[token].loads


def test_a_fresh_copy_whose_reset_failed_is_not_put_aside():
    end, token = fresh_away()
    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()
    identity = end.core.mailbox.held[token].recipe.environment.id
    end.core.environment_lost(identity, end.now)

    assert end.core.release(token, None, end.now)
    end.carry()

    assert end.core.entering.take_evictions() == [identity]
    assert not end.core.mailbox.residents.aside
