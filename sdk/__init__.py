"""What a user imports: clients, futures, environments, the task's own side, errors."""

# Before the rest, which takes its time.
import sdk.loading  # noqa: F401

# isort: split
from sdk.absent import continuation
from sdk.asynchronous import AsyncClient
from sdk.client import Client
from sdk.cluster import LocalCluster
from sdk.describing.batching import batch
from sdk.describing.groups import concurrency_group
from sdk.describing.options import Backoff, Desired, Sticky
from sdk.environment import Environment, ReusePolicy
from sdk.errors import (
    ActorLost,
    ActorUnknown,
    BadOption,
    BrokerUnreachable,
    ClientClosed,
    Conflict,
    Deadlock,
    EnvironmentFailed,
    Infeasible,
    LimitUnknown,
    NonRetryable,
    NotAuthorized,
    NotDurable,
    NotInTask,
    OutcomeUnknown,
    ParentGone,
    PayloadTooLarge,
    PoisonTask,
    ProtocolMismatch,
    QueueFull,
    ReleasedLimit,
    RemoteTraceback,
    ScheduleTimeout,
    SerializationError,
    SlotReleased,
    TaskCanceled,
    TaskFailed,
    TaskTimeout,
    WarmslotError,
)
from sdk.futures.future import TaskFuture, as_completed, gather, wait
from sdk.handle import ActorHandle
from sdk.task import current_task, task
from wire.labels import Comparator

__all__ = [
    "ActorHandle",
    "ActorLost",
    "ActorUnknown",
    "AsyncClient",
    "Backoff",
    "BadOption",
    "BrokerUnreachable",
    "Client",
    "ClientClosed",
    "Comparator",
    "Conflict",
    "Deadlock",
    "Desired",
    "Environment",
    "EnvironmentFailed",
    "Infeasible",
    "LimitUnknown",
    "LocalCluster",
    "NonRetryable",
    "NotAuthorized",
    "NotDurable",
    "NotInTask",
    "OutcomeUnknown",
    "ParentGone",
    "PayloadTooLarge",
    "PoisonTask",
    "ProtocolMismatch",
    "QueueFull",
    "ReleasedLimit",
    "RemoteTraceback",
    "ReusePolicy",
    "ScheduleTimeout",
    "SerializationError",
    "SlotReleased",
    "Sticky",
    "TaskCanceled",
    "TaskFailed",
    "TaskFuture",
    "TaskTimeout",
    "WarmslotError",
    "as_completed",
    "batch",
    "concurrency_group",
    "continuation",
    "current_task",
    "gather",
    "task",
    "wait",
]
