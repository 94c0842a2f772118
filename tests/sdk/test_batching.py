"""What can be a batch, and how single calls become lists and their results single again."""

import pytest

from sdk import Environment, ReusePolicy, batch
from sdk.describing.batching import Batch, Columns, batch_of, batches_of, split
from sdk.describing.options import NO_OPTIONS
from sdk.environment import specification_of
from sdk.plan import plan_for


class Embedding(Environment):
    @batch(max_size=8, max_wait_ms=2)
    def embed(self, texts, scale=1):
        return texts

    @batch
    def rank(self, queries):
        return queries

    def count(self):
        return 1


class Asynchronous(Embedding):
    reuse = ReusePolicy(concurrency=3)

    @batch(max_size=8)
    async def embed(self, texts):
        return texts

    async def rank(self, query):
        return query


def message(reference):
    return plan_for(reference, NO_OPTIONS).plan(is_portable=True).call.environment


def test_a_method_says_how_many_calls_it_takes_and_how_long_they_may_wait():
    assert batches_of(Embedding) == {"embed": Batch(8, 0.002), "rank": Batch(32, 0.005)}
    assert batches_of(Asynchronous) == {"embed": Batch(8, 0.005, is_async=True)}


def test_a_copy_has_as_many_turns_as_its_largest_batch_holds():
    assert [(m.turns, m.concurrency) for m in map(message, (Embedding.embed, Embedding.count))] == [
        (1, 32),
        (32, 32),
    ]


def test_what_is_async_and_no_batch_takes_as_many_turns_as_one():
    batched, other = message(Asynchronous.embed), message(Asynchronous.rank)

    assert (batched.turns, other.turns, other.concurrency) == (1, 8, 24)


def test_a_copy_for_one_call_has_one_turn():
    planned = plan_for(Embedding.embed, NO_OPTIONS.of({"reuse": False}))

    environment = planned.plan(is_portable=True).call.environment
    assert (environment.turns, environment.concurrency) == (1, 1)


def test_another_size_is_another_environment():
    class Small(Environment):
        version = "1"

        @batch(max_size=2)
        def work(self, items):
            return items

    first = specification_of(Small).identity
    Small.__dict__["work"].__warmslot_batch__ = Batch(4, 0.0)

    assert specification_of(Small).identity != first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_size": 0}, "max_size=0"),
        ({"max_size": 2.0}, "max_size=2.0"),
        ({"max_size": True}, "max_size=True"),
        ({"max_wait_ms": -1}, "max_wait_ms=-1"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms=nan"),
        ({"max_wait_ms": "5"}, "max_wait_ms='5'"),
        ({"max_wait_ms": 3_600_000}, "below an hour"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        batch(**options)


def test_what_cannot_be_called_with_lists_is_refused():
    with pytest.raises(TypeError, match="by name"):
        batch(lambda self, *items: items)
    with pytest.raises(TypeError, match="method of an Environment"):
        batch(len)
    with pytest.raises(TypeError, match="takes nothing"):
        batch(lambda self: self)

    def produce(self, items):
        yield from items

    with pytest.raises(TypeError, match="must return a list, not yield"):
        batch(produce)


def test_a_sync_batch_beside_others_is_refused():
    with pytest.raises(ValueError, match="needs an async @batch"):

        class Both(Environment):
            reuse = ReusePolicy(concurrency=2)

            @batch
            def embed(self, texts):
                return texts

            async def other(self):
                """Be async."""


def test_a_plain_function_is_no_batch():
    @batch
    def work(self, items):
        return items

    assert batch_of(work) is not None
    with pytest.raises(TypeError, match=r"submit Class\.method"):
        plan_for(work, NO_OPTIONS)


def test_calls_become_a_list_for_each_parameter():
    columns = Columns(Embedding().embed)

    columns.add(("a",), {})
    columns.add(("b",), {"scale": 3})

    assert columns.lists() == {"texts": ["a", "b"], "scale": [1, 3]}
    with pytest.raises(TypeError, match="unexpected keyword"):
        columns.add(("c",), {"size": 1})
    assert columns.count == 2


def test_results_are_as_many_as_the_calls():
    assert split("E.m", (1, 2), 2) == [1, 2]
    with pytest.raises(ValueError, match=r"E\.m returned 1 results for a batch of 2"):
        split("E.m", [1], 2)
    with pytest.raises(TypeError, match=r"must return a list of 2 results, got NoneType"):
        split("E.m", None, 2)


@pytest.mark.parametrize("returned", [{"a": 1, "b": 2}, {1, 2}, "ab", b"ab"])
def test_what_only_looks_like_a_list_is_no_list_of_results(returned):
    with pytest.raises(TypeError, match=r"must return a list of 2 results, got"):
        split("E.m", returned, 2)
