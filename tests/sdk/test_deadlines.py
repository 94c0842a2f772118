"""Times of waits: what is no time is refused in a line, what is longer than any wait just waits."""

import math
from fractions import Fraction
from time import monotonic

import numpy as np
import pytest

from sdk import Backoff, Client, as_completed, gather, wait
from sdk.describing.options import Options
from sdk.reading.deadlines import WAIT_MAX_S, deadline_of, read_wait
from tests.sdk.fakes import ScriptedBroker
from wire.codec import encode

LARGE = 10**400


def test_a_time_beyond_all_bounds_is_the_longest_wait():
    assert read_wait(LARGE) == read_wait(math.inf) == WAIT_MAX_S
    assert deadline_of(LARGE) == pytest.approx(monotonic() + WAIT_MAX_S)
    assert read_wait(-LARGE) < 0
    assert deadline_of(-LARGE) < monotonic()
    assert read_wait(None) is deadline_of(None) is None


@pytest.mark.parametrize("timeout", [np.int64(2), np.float32(2), Fraction(2)])
def test_seconds_that_are_no_float_were_refused_inside_a_run_alone(timeout):
    before = monotonic()

    assert before + 2.0 <= deadline_of(timeout) <= monotonic() + 2.0
    assert read_wait(timeout) == 2.0


@pytest.mark.parametrize("timeout", ["soon", math.nan, [1]])
def test_what_is_no_time_is_refused_by_what_is_wanted(timeout):
    for read in (read_wait, deadline_of):
        with pytest.raises(TypeError, match="timeout is seconds, or None to wait for ever, not "):
            read(timeout)


WAITS = {
    "result": lambda client, future, s: future.result(s),
    "exception": lambda client, future, s: future.exception(s),
    "accepted": lambda client, future, s: future.accepted(s),
    "wait": lambda client, future, s: wait([future], timeout=s),
    "gather": lambda client, future, s: gather([future], timeout=s),
    "as_completed": lambda client, future, s: list(as_completed([future], timeout=s)),
    "flush": lambda client, future, s: client.flush(s),
    "query": lambda client, future, s: client.query("status", timeout=s),
    "connect": lambda client, future, s: Client(client.endpoint, connect_timeout=s).close(),
}


@pytest.mark.process
@pytest.mark.parametrize("which", WAITS)
def test_whoever_waited_for_longer_than_a_float_got_an_overflow(which):
    with ScriptedBroker() as broker, Client(broker.endpoint) as client:
        WAITS[which](client, client.submit(len, "abc"), LARGE)


@pytest.mark.process
@pytest.mark.parametrize("which", WAITS)
def test_whoever_waited_for_no_time_got_the_text_of_a_sum(which):
    with ScriptedBroker(lambda *_: None) as broker, Client(broker.endpoint) as client:
        future = client.submit(len, "abc")
        with pytest.raises(TypeError, match="seconds"):
            WAITS[which](client, future, "soon")


@pytest.mark.process
@pytest.mark.parametrize("count", ["1", 1.0, True, LARGE])
def test_how_many_are_waited_for_is_a_number_of_them(count):
    with ScriptedBroker() as broker, Client(broker.endpoint) as client:
        future = client.submit(len, "abc")
        with pytest.raises(ValueError, match=r"num_returns=.* must be from 1 to 1"):
            wait([future], num_returns=count)


@pytest.mark.process
def test_a_number_of_numpy_says_how_many_are_waited_for():
    with ScriptedBroker(lambda *_: None) as broker, Client(broker.endpoint) as client:
        future = client.submit(len, "abc")

        assert wait([future], num_returns=np.int64(1), timeout=0) == ([], [future])


def test_a_first_wait_is_written_alike_as_an_int_and_as_a_float():
    made = [Options.of({"retry_backoff": first}).chosen["retry_backoff"] for first in (70, 70.0)]

    assert [encode(one) for one in made] == [encode(Backoff(70.0, max_s=70.0))] * 2


@pytest.mark.parametrize("name", ["initial_s", "factor", "max_s", "jitter"])
def test_a_backoff_beyond_all_bounds_is_refused_by_its_name(name):
    with pytest.raises(ValueError, match=f"Backoff: {name}=1000.* is too large"):
        Backoff(**{name: LARGE})
