"""Which calls have ended in a named actor: what is kept of many, and what is said of them."""

from hypothesis import given
from hypothesis import strategies as st

from actor.holding.ended import CLIENTS_KEPT, SPANS_KEPT, EndedCalls


def added(*numbers, client=1):
    ended = EndedCalls()
    for number in numbers:
        ended.add(client, number)
    return ended


def test_calls_that_follow_one_another_are_one_span():
    assert added(3, 4, 5, 9).state() == [(1, [(3, 5), (9, 9)])]


def test_a_call_that_was_overtaken_is_known_as_well():
    assert added(3, 7, 5).state() == [(1, [(3, 3), (5, 5), (7, 7)])]


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=300))
def test_what_has_ended_is_in_it_however_many_there_are(numbers):
    ((_, spans),) = added(*numbers).state()

    assert spans == sorted(spans)
    assert len(spans) <= SPANS_KEPT
    assert all(any(first <= n <= last for first, last in spans) for n in numbers)


def test_what_comes_behind_the_last_has_not_ended():
    ((_, spans),) = added(*range(1, 1_000, 2)).state()

    assert spans[-1] == (999, 999)
    assert spans[0][1] < 999 - SPANS_KEPT


def test_the_client_of_which_no_call_has_ended_for_the_longest_is_forgotten():
    ended = added(1, client=0)
    for client in range(1, CLIENTS_KEPT):
        ended.add(client, 1)
    ended.add(0, 2)
    ended.add(CLIENTS_KEPT, 1)

    clients = [client for client, _ in ended.state()]
    assert len(clients) == CLIENTS_KEPT
    assert clients[-2:] == [0, CLIENTS_KEPT]
    assert 1 not in clients
