"""Families: which durable calls end with the run that made them, also in a new broker."""

import msgspec
import pytest

from tests.broker.conversation import CODE, Conversation
from tests.support.disk import Disk, summary, summary_of_rows
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.messages import (
    Assign,
    Attach,
    Bye,
    Cancel,
    Credit,
    Function,
    Query,
    Release,
    Requeued,
    Result,
    Stop,
    Submit,
    Template,
    Tried,
)
from wire.parts import Backoff, Call, Failure, Holding, Kept, Key, Status

DURABLE = Call("keep", CODE, durable=True)
ONCE = Call("once", CODE, durable=True, at_most_once=True)
RETRIED = Call("tried", CODE, durable=True, retries=1, backoff=Backoff(0.5, 1.0, 0.5, 0.0))
KEY = Key("order 17", b"d" * 16, 60.0)
FIRST = (1000, 1)
ROOT, NESTED = 1, 11


def agree(talk):
    return summary(talk.broker) == summary_of_rows(talk.disk.read())


def code_of(client, number):
    found = {result.task: result for result in client.takes(Result)}
    return decode_failure(found[number].body).code if number in found else None


class Family:
    """A task whose run has released its slot and made one durable call."""

    def __init__(self, *, parent=DURABLE, call=DURABLE, key=None, free=1, **settings):
        self.talk = Conversation(disk=Disk(), **settings)
        self.root = self.talk.client(ROOT)
        self.actor = self.talk.actor(11, free=1)
        self.root.submits(1, call=parent)
        self.token = (self.talk.broker.epoch, self.actor.takes(Assign)[-1].number)
        self.actor.says(Release(*self.token, None), Credit(free))
        self.nested = self.talk.client(NESTED, name="host/0")
        self.nested.submits(1, call=call, parent=self.token, key=key, slot=1)
        assert agree(self.talk)

    @property
    def state(self):
        return self.talk.state(self.nested, 1)

    def other_actor(self, free=1):
        return self.talk.actor(12, name="host/1", free=free)

    def loses_the_run(self):
        """Let the next process have the name of the actor."""
        self.actor = self.talk.actor(13, free=0)


# --- cancel


@pytest.mark.parametrize("parent", [DURABLE, Call("plain", CODE)])
@pytest.mark.parametrize("free", [0, 1])
@pytest.mark.parametrize("key", [None, KEY])
def test_a_durable_call_is_canceled_with_the_task_that_made_it(parent, free, key):
    family = Family(parent=parent, free=free, key=key)
    assert family.state == ("assigned" if free else "queued")

    family.root.says(Cancel([1], False))

    assert code_of(family.nested, 1) == Code.PARENT_GONE
    stopped = [stop.number for stop in family.actor.takes(Stop)]
    assert len(stopped) == 1 + free
    assert agree(family.talk)
    if key is not None:
        assert family.talk.broker.records.keys == {}


@pytest.mark.parametrize("parent", [DURABLE, Call("plain", CODE)])
@pytest.mark.parametrize("call", [DURABLE, Call("plain", CODE)])
def test_force_reaches_the_calls_of_a_task_as_well(parent, call):
    """A call that went on kept its slot for ever, and nobody could end it any more."""
    family = Family(parent=parent, call=call)

    family.root.says(Cancel([1], force=True))

    assert [stop.force for stop in family.actor.takes(Stop)] == [True, True]


def test_whoever_cancels_a_task_by_its_id_cancels_its_calls():
    family = Family()
    other = family.talk.client(5)

    other.says(Query(1, "cancel", f"{ROOT:016x}-1"))

    assert code_of(family.nested, 1) == Code.PARENT_GONE


def test_a_cancel_reaches_the_calls_of_calls_in_every_state():
    family = Family()
    (second,) = [(1000, a.number) for a in family.actor.takes(Assign)]
    family.talk.writes = False
    family.nested.submits(2, call=ONCE, parent=second, slot=2)
    family.actor.says(Release(*second, None), Credit(1))
    assert family.talk.state(family.nested, 2) == "writing"

    family.root.says(Cancel([1], False))
    family.talk.commits()

    states = [family.talk.task(family.nested, number) for number in (1, 2)]
    assert [str(task.state) for task in states] == ["ended", "ended"]
    assert agree(family.talk)


def test_what_others_have_come_for_with_its_key_is_not_canceled():
    family = Family(key=KEY)
    other = family.talk.client(5).submits(1, call=DURABLE, key=KEY)

    family.root.says(Cancel([1], False))

    assert family.state == "assigned"
    family.actor.ends((1000, 2), b"value")
    assert [result.body for result in other.takes(Result)] == [b"value"]


def test_the_calls_of_a_task_that_has_ended_go_on():
    family = Family()

    family.actor.ends(family.token, b"value", free=0)
    family.root.beats()

    assert family.state == "assigned"
    family.actor.ends((1000, 2), b"more")
    assert [result.body for result in family.nested.takes(Result)] == [b"more"]


def test_a_durable_call_outlives_the_client_whose_task_has_made_it():
    family = Family(parent=Call("plain", CODE))

    family.root.says(Bye("done"))

    assert [stop.number for stop in family.actor.takes(Stop)] == [family.token[1]]
    assert family.state == "assigned"


# --- a lost run


def test_the_call_of_a_lost_run_ends_and_one_with_a_key_goes_on():
    for key, state in ((None, "ended"), (KEY, "queued")):
        family = Family(free=0, key=key)
        family.loses_the_run()
        assert family.state == state
        assert agree(family.talk)


def test_the_next_run_finds_what_has_a_key_and_it_can_still_be_canceled():
    family = Family(free=0, key=KEY)
    family.loses_the_run()
    family.actor.says(Credit(1))
    (again,) = family.actor.takes(Assign)
    assert (again.client, again.attempt) == (ROOT, 2)

    later = family.talk.client(13, name="host/0 again")
    later.submits(1, call=DURABLE, key=KEY, parent=(1000, again.number))
    assert family.talk.state(later, 1) == "attached"
    family.root.says(Cancel([1], False))

    assert code_of(later, 1) == Code.PARENT_GONE
    assert agree(family.talk)


def test_a_run_that_failed_and_is_tried_again_takes_its_calls_along():
    family = Family(parent=RETRIED, free=0)
    failure = encode_failure(Failure(Code.TASK_FAILED, "OSError", "no route", retriable=True))

    family.actor.ends(family.token, failure, status=Status.FAILURE)

    assert family.talk.state(family.root, 1) == "delayed"
    assert code_of(family.nested, 1) == Code.PARENT_GONE


# A run that was lost with its calls was adopted when its process was heard again. It was told that
# they are gone, and so its task failed with that, of which nobody had to hear.


@pytest.mark.parametrize("parent", [DURABLE, Call("plain", CODE)])
@pytest.mark.parametrize("call", [DURABLE, Call("plain", CODE)])
def test_a_run_whose_calls_have_ended_with_it_is_not_taken_back(parent, call):
    family = Family(parent=parent, call=call, free=0)
    family.talk.wait(6.0, beating=[family.root, family.nested])
    assert code_of(family.nested, 1) == Code.PARENT_GONE
    assert family.root.takes(Requeued)[-1].failed == family.token

    holding(family, nested=False)

    assert [stop.number for stop in family.actor.takes(Stop)] == [family.token[1]]
    assert family.talk.state(family.root, 1) == "queued"
    family.actor.says(Credit(1))
    assert [again.attempt for again in family.actor.takes(Assign)] == [2]
    assert agree(family.talk)


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_run_that_was_lost_is_taken_back_unless_a_call_of_its_own_was_refused(is_refused):
    """The process has two connections, and either may be the first that is there again."""
    family = Family(free=0, key=KEY)
    family.talk.wait(6.0, beating=[family.root, family.nested])
    assert family.root.takes(Requeued)[-1].failed is None
    if is_refused:
        family.nested.submits(2, parent=family.token)
        assert code_of(family.nested, 2) == Code.PARENT_GONE

    holding(family, nested=False)

    told = family.root.takes(Requeued)
    assert [requeued.failed for requeued in told] == [family.token] * is_refused
    assert len(family.actor.takes(Stop)) == is_refused
    assert (family.talk.task(family.root, 1).token == family.token) is not is_refused
    assert agree(family.talk)


@pytest.mark.parametrize("key", [None, KEY])
def test_nor_is_it_by_the_next_broker_which_has_that_from_the_journal(key):
    """With a key no call has ended with the run: another one of its own was refused."""
    family = Family(free=0, key=key)
    family.talk.wait(6.0, beating=[family.root, family.nested])
    if key is not None:
        family.nested.submits(2, parent=family.token)
        assert code_of(family.nested, 2) == Code.PARENT_GONE
    family.talk.restart()

    holding(family, nested=False)

    assert [stop.number for stop in family.actor.takes(Stop)] == [family.token[1]]
    family.talk.wait(2.5, beating=[family.root])
    assert family.talk.state(family.root, 1) == "queued"
    assert agree(family.talk)


def test_nor_is_it_where_it_is_offered_when_the_window_is_over():
    family = Family(free=0)
    family.talk.restart()
    family.talk.wait(2.5, beating=[family.root])
    assert family.talk.task(family.nested, 1).is_over

    holding(family, nested=False)

    assert [stop.number for stop in family.actor.takes(Stop)] == [family.token[1]]
    assert family.talk.state(family.root, 1) == "queued"
    assert agree(family.talk)


def says_again(family):
    """Let the client send its call to the next broker, with the run of it that was lost."""
    family.root.greets(msgspec.structs.replace(family.root.hello, unresolved=[(1, 1)]))
    told = Tried(1, 0, 0, 1, 0.0, family.token, ["attempt 1: silent"])
    again = Submit(1, 0, b"", again=True, tries=1)
    function, template = Function(0, CODE, b"code"), Template(0, Call("plain", CODE))
    family.root.says(function, template, told, again)


@pytest.mark.parametrize("is_first", [True, False])
def test_nor_where_only_the_client_can_tell_the_next_broker(is_first):
    family = Family(parent=Call("plain", CODE), call=Call("plain", CODE), free=0)
    family.talk.wait(6.0, beating=[family.root, family.nested])
    family.talk.restart()
    if is_first:
        holding(family, nested=False)
        assert family.talk.state(family.root, 1) == "unclaimed-run"

    says_again(family)
    if not is_first:
        holding(family, nested=False)

    assert [stop.number for stop in family.actor.takes(Stop)] == [family.token[1]]
    family.talk.wait(2.5, beating=[family.root])
    assert family.talk.state(family.root, 1) == "queued"


@pytest.mark.parametrize("is_first", [True, False])
def test_nor_is_one_that_has_returned_where_only_the_client_can_tell_that(is_first):
    """Found by seed 6267808585351710: what it had called was gone, and its result was taken."""
    family = Family(parent=Call("plain", CODE), call=Call("plain", CODE), free=0)
    family.talk.wait(6.0, beating=[family.root, family.nested])
    family.talk.restart()
    hello = msgspec.structs.replace(family.actor.hello, kept=[Kept(ROOT, 1, family.token)])
    if is_first:
        family.actor.greets(hello)
        assert family.talk.state(family.root, 1) == "unclaimed-run"

    says_again(family)
    if not is_first:
        family.actor.greets(hello)
    family.actor.ends(family.token, b"result")

    assert family.root.takes(Result) == []
    family.talk.wait(2.5, beating=[family.root])
    assert family.talk.state(family.root, 1) == "queued"
    assert agree(family.talk)


# --- a restart


def holding(family, *, nested=True):
    """Say HELLO as the actor of both."""
    runs = [Holding(ROOT, 1, family.token, "released")]
    runs += [Holding(NESTED, 1, (1000, 2), "running")] if nested else []
    family.actor.greets(msgspec.structs.replace(family.actor.hello, holding=runs))


def test_a_family_outlives_the_broker():
    family = Family()
    family.talk.restart()
    holding(family)
    family.talk.wait(2.5)
    assert (family.talk.state(family.root, 1), family.state) == ("assigned", "assigned")
    family.root.greets(msgspec.structs.replace(family.root.hello, unresolved=[(1, 1)]))
    family.nested.greets(msgspec.structs.replace(family.nested.hello, unresolved=[(1, 1)]))

    family.root.says(Cancel([1], False))

    assert sorted(stop.number for stop in family.actor.takes(Stop)) == [1, 2]
    assert code_of(family.nested, 1) == Code.PARENT_GONE
    assert agree(family.talk)


def test_a_task_that_is_canceled_before_its_run_is_back_takes_its_calls_along():
    family = Family()
    family.talk.restart()
    family.root.greets(msgspec.structs.replace(family.root.hello, unresolved=[(1, 1)]))

    family.root.says(Cancel([1], False))

    assert family.talk.task(family.nested, 1).is_over
    assert agree(family.talk)


def test_an_earlier_run_of_its_task_takes_no_call_along():
    """Found by seed 786231013008212863: the run that had made it went on without it."""
    family = Family()
    family.talk.restart()
    earlier = family.talk.actor(12, name="host/1", holding=[(ROOT, 1, (999, 1), "running")])
    holding(family)
    assert [stop.epoch for stop in earlier.takes(Stop)] == [999]
    assert family.state == "assigned"


@pytest.mark.parametrize("key", [None, KEY])
def test_the_call_of_a_run_that_nobody_offers_ends_for_its_task_makes_it_again(key):
    family = Family(key=key)
    family.talk.restart()

    family.talk.wait(2.5)

    assert family.talk.state(family.root, 1) == "queued"
    assert family.state == ("queued" if key else "ended")
    assert agree(family.talk)


@pytest.mark.parametrize("is_offered", [True, False])
def test_a_call_that_is_lost_goes_on_until_the_run_that_made_it_cannot_be_offered(is_offered):
    family = Family()
    family.talk.restart()
    family.talk.actor(12, name="host/1", holding=[(NESTED, 1, (1000, 2), "running")])
    next_actor = family.talk.actor(14, name="host/1", free=1)
    assert next_actor.takes(Assign)
    assert (family.talk.state(family.root, 1), family.state) == ("held", "assigned")

    if is_offered:
        holding(family, nested=False)
    family.talk.wait(2.5)

    assert family.talk.state(family.root, 1) == ("assigned" if is_offered else "queued")
    assert family.state == ("assigned" if is_offered else "ended")
    assert len(next_actor.takes(Stop)) == (0 if is_offered else 1)
    assert agree(family.talk)


def test_the_call_of_a_task_that_had_ended_goes_on_in_a_new_broker():
    family = Family()
    family.root.is_deaf = True
    family.actor.ends(family.token, b"value", free=0)
    family.talk.restart()
    assert family.talk.state(family.root, 1) == "ended"

    family.talk.wait(2.5)

    assert family.state == "queued"


def test_the_call_of_a_task_that_ends_as_its_outcome_is_offered_goes_on():
    family = Family()
    family.talk.writes = False
    family.actor.ends(family.token, b"value", free=0)
    family.talk.writes = True
    family.talk.restart()
    kept = [Kept(ROOT, 1, family.token)]
    family.actor.greets(msgspec.structs.replace(family.actor.hello, kept=kept))
    family.actor.ends(family.token, b"value", free=0)

    family.talk.wait(2.5)

    assert family.talk.state(family.root, 1) == "ended"
    assert family.state == "queued"


@pytest.mark.parametrize("returns_in_time", [True, False])
def test_a_client_that_sends_its_task_again_has_the_calls_of_its_lost_run_ended(returns_in_time):
    family = Family(parent=Call("plain", CODE))
    family.talk.restart()
    if not returns_in_time:
        family.talk.wait(2.5)
        assert family.state == "queued"

    family.root.greets(msgspec.structs.replace(family.root.hello, unresolved=[(1, 1)]))
    family.root.submits(1, again=True)
    family.talk.wait(2.5, beating=[family.root])

    assert family.talk.state(family.root, 1) == "queued"
    assert family.talk.task(family.nested, 1).is_over
    assert family.talk.broker.records.orphans.keys() <= {ROOT}
    assert agree(family.talk)


@pytest.mark.parametrize("key", [None, KEY])
def test_the_call_of_a_run_that_was_lost_before_its_client_claimed_it_ends_when_it_runs_again(key):
    family = Family(parent=Call("plain", CODE), key=key)
    family.talk.restart()
    holding(family, nested=False)
    family.loses_the_run()
    assert family.state == "held"

    family.root.greets(msgspec.structs.replace(family.root.hello, unresolved=[(1, 1)]))
    family.root.submits(1, again=True)
    family.talk.wait(2.5, beating=[family.root])

    assert family.talk.state(family.root, 1) == "queued"
    assert family.talk.task(family.nested, 1).is_over is (key is None)
    assert agree(family.talk)


def test_the_call_of_a_run_that_was_lost_and_that_nobody_claims_goes_on():
    family = Family(parent=Call("plain", CODE))
    family.talk.restart()
    holding(family, nested=False)
    family.loses_the_run()

    family.talk.wait(2.5)

    assert family.state == "queued"
    assert agree(family.talk)


def test_the_call_of_a_client_that_is_gone_ends_when_that_sends_its_task_again():
    family = Family(parent=Call("plain", CODE), free=0, client_timeout_s=1.0)
    family.root.vanishes()
    family.talk.wait(1.5)
    assert family.state == "queued"

    family.root.greets(msgspec.structs.replace(family.root.hello, unresolved=[(1, 1)]))

    assert code_of(family.nested, 1) == Code.PARENT_GONE


def test_of_two_offered_runs_the_calls_of_the_lower_one_end():
    family = Family(free=0)
    family.talk.restart()
    holding(family, nested=False)
    family.talk.actor(12, name="host/1", holding=[(ROOT, 1, (family.token[0], 7), "running")])
    family.talk.wait(2.5)

    assert family.talk.task(family.root, 1).token == (1000, 7)
    assert family.talk.task(family.nested, 1).is_over


# --- beside


def test_whoever_looks_for_a_call_of_a_lost_run_is_told_what_became_of_it():
    family = Family(free=0)
    family.loses_the_run()
    other = family.talk.client(5)

    other.says(Attach(1, NESTED, 1))

    assert code_of(other, 1) == Code.PARENT_GONE
