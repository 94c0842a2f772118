"""What must hold of outcomes: which failures a call may end with, and when it is given up."""

from typing import TYPE_CHECKING, Any

from tests.sim import labels
from tests.sim.counters import named_of
from wire.codec import decode_failure, read_failure
from wire.errors import Code
from wire.parts import Status

if TYPE_CHECKING:
    from tests.sim.oracle import Oracle
    from tests.sim.records import TaskRecord

# More of a limit than any operator sets.
HOPELESS = 9
# So much is told of what went wrong before.
HISTORY_MAX = 10
# So many runs a task has taken a process along in that is poison.
POISON_RUNS = 3
# Before any token.
NONE = (0, 0)


def check_code(oracle: "Oracle", record: "TaskRecord", status: Status, body: bytes) -> None:
    """Check that a call may end with a failure that no run of it made."""
    failure = decode_failure(body)
    code = failure.code
    match code:
        case Code.OUTCOME_UNKNOWN:
            may_have_run = record.call.at_most_once or oracle.counters.is_in_doubt(record)
            assert may_have_run or oracle.dead.refused(record), record.name
        case Code.ENVIRONMENT_FAILED:
            assert record.call.environment is not None, record.name
        case Code.ACTOR_LOST if "beside other tasks" in failure.message:
            assert oracle.world.profile.slots > 1, record.name
        case Code.ACTOR_LOST:
            assert named_of(record.call) or record.call.sticky.hard, record.name
        case Code.CONFLICT:
            assert named_of(record.call), record.name
        case Code.QUEUE_FULL:
            named = named_of(record.call)
            assert named is not None, record.name
            assert named.max_pending, record.name
        case Code.PARENT_GONE:
            # A key may be that of a child.
            assert record.has_parent or record.call.durable, record.name
            oracle.families.told_gone(record)
        case Code.SCHEDULE_TIMEOUT:
            labels.gave_up(oracle.world, record)
        case Code.TASK_TIMEOUT:
            assert record.call.timeout_s is not None, record.name
        case Code.CANCELED:
            # By a newer task with the same key.
            assert oracle.is_rival(record), record.name
        case Code.LIMIT_UNKNOWN:
            assert "nobody" in record.call.limits, record.name
        case Code.BAD_OPTION if record.call.limits.get("a", 0) > HOPELESS:
            pass
        case Code.BAD_OPTION:
            # The limit is less by now than what it wants.
            assert "change_limit" in oracle.world.profile.faults, record.name
            assert record.call.limits.get("b") == 2, record.name
        case Code.POISON_TASK:
            is_lost = oracle.crashes.may_be_lost(record, failure)
            # What came with its key first runs for all that have it.
            names = [] if record.group is None else record.group.names
            starts = [record.starts, *(oracle.tasks[name].starts for name in names)]
            has_run = any(len(runs) >= POISON_RUNS for runs in starts)
            is_enough = has_run or is_lost or not oracle.world.profile.is_deadly
            assert is_enough, f"{record.name} is poison: {failure.message}"
            oracle.crashes.gave_up(record, failure)
        case _:
            raise AssertionError((record.name, status, code))


def check_given_up(oracle: "Oracle", record: "TaskRecord", body: bytes) -> None:
    """Check that a task that was to be tried again has failed often enough."""
    failure = decode_failure(body)
    assert not failure.retriable or len(record.failures) > record.call.retries, (
        f"{record.name} is given up after {len(record.failures)} failures"
    )
    assert failure.code != Code.TASK_FAILED or failure.message, body
    # Of two brokers each knows what happened with it alone.
    is_told = (
        not oracle.world.profile.is_forgetful and "other_broker" not in oracle.world.profile.faults
    )
    if is_told and record.redrives is None:
        # A durable task stays when its client is given up.
        until = oracle.given_up.get(record.client.incarnation, NONE)
        since = NONE if record.call.durable else until
        heard = record.failures.keys() - oracle.taken_along
        before = min(sum(token > since for token in heard) - 1, HISTORY_MAX)
        assert len(failure.history) >= before, f"{record.name}: {failure.history}"


def is_said_too_large(body: bytes) -> bool:
    """Tell whether a failure says that something is more than is allowed."""
    failure = read_failure(body)
    return failure is not None and failure.code == Code.PAYLOAD_TOO_LARGE


def made_of(call: Any, ending: Any) -> bytes:
    """Return what a run made, as it is told apart from that of every other run."""
    body = ending.body + b"".join(ending.frames)
    is_failure = ending.status is Status.FAILURE and call.retries
    return decode_failure(body).message.encode() if is_failure else body
