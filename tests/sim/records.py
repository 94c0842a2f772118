"""What the user knows of each call, and what became of it."""

from typing import TYPE_CHECKING, Any

from wire.parts import Key, Status, Token

if TYPE_CHECKING:
    from tests.sim.clients import ClientProcess
    from tests.sim.durability import Group


class TaskRecord:
    """What the user knows of one call, and what became of it."""

    __slots__ = (
        "burned",
        "call",
        "client",
        "failures",
        "group",
        "has_parent",
        "is_attached",
        "is_canceled",
        "is_huge",
        "is_looked_for",
        "key",
        "name",
        "number",
        "origin",
        "parent",
        "produced",
        "redrives",
        "resolution",
        "starts",
        "submitted_at",
    )

    def __init__(self, client: "ClientProcess", number: int, call: Any, has_parent: bool) -> None:
        """Begin unresolved."""
        self.client = client
        self.number = number
        self.name = f"{client.name}-{number}"
        self.call = call
        self.has_parent = has_parent
        # The run that submitted it, if one did.
        self.parent: Token | None = None
        # Whether its arguments or the result of a run are more than is allowed.
        self.is_huge = False
        self.is_canceled = False
        # Of a durable one: what must end alike, and the task that this is another name of.
        self.group: Group | None = None
        self.key: Key | None = None
        self.origin = (client.incarnation, number)
        self.is_attached = self.is_looked_for = False
        # The name of the dead task whose call it is.
        self.redrives: tuple[int, int] | None = None
        self.resolution: tuple[Any, ...] | None = None
        self.starts: list[Token] = []
        self.submitted_at = client.world.now
        # How many of its runs had started when their process ended.
        self.burned = 0
        # When a run ended that failed and may be tried again.
        self.failures: dict[Token, float] = {}
        self.produced: set[tuple[Status, bytes]] = set()

    @property
    def is_open(self) -> bool:
        """Tell whether somebody waits for it."""
        return self.resolution is None and not self.is_canceled and self.client.is_alive
