"""The actors of a crew in order, one by one; `test_choice` compares all of it with the rule."""

import pytest

from broker.facts.peers import Actor
from broker.waiting.rankings import Ranking
from tests.broker.conversation import actor_hello


@pytest.fixture
def grades():
    """What each actor is worth now."""
    return {}


@pytest.fixture
def ranking(grades):
    return Ranking(lambda actor: grades[actor])


def an_actor(ranking, grades, *offered):
    """Return one that became better each time that it was offered."""
    actor = Actor(actor_hello(), 0.0)
    for grade in offered:
        grades[actor] = grade
        ranking.offer(actor, grade)
    return actor


def test_one_that_became_better_is_still_the_only_one(ranking, grades):
    actor = an_actor(ranking, grades, 1, 2, 3)

    assert ranking.is_alone
    assert ranking.best() is ranking.best_from(3) is actor


def test_the_only_one_is_nobody_while_it_is_worth_too_little(ranking, grades):
    actor = an_actor(ranking, grades, 1, 2, 3)

    grades[actor] = 2

    assert ranking.best_from(3) is None
    assert ranking.best_from(2) is actor


def test_the_only_one_is_nobody_while_it_can_have_nothing(ranking, grades):
    actor = an_actor(ranking, grades, 1, 2, 3)

    grades[actor] = 0

    assert ranking.best_from(1) is None
    assert ranking.best() is None


def test_who_is_left_is_asked_though_others_stood_before_it(ranking, grades):
    ranking.drop(an_actor(ranking, grades, 5))
    actor = an_actor(ranking, grades, 1, 2)

    assert ranking.is_alone
    assert ranking.best() is ranking.best_from(2) is actor


def test_of_equals_the_one_that_was_used_the_longest_ago_goes_first(ranking, grades):
    first, second = an_actor(ranking, grades, 1), an_actor(ranking, grades, 1)

    first.used_at = 1

    assert not ranking.is_alone
    assert ranking.best_from(1) is second


def test_who_is_listed_anew_as_worse_is_to_be_told_when_it_is_as_it_was(ranking, grades):
    actor = an_actor(ranking, grades, 2)
    actor.ranked_as = actor.credit.stated

    ranking.renew(actor)
    was_told = actor.ranked_as
    grades[actor] = 1
    ranking.renew(actor)

    assert was_told is actor.credit.stated
    assert actor.ranked_as is None
