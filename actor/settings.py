"""What a host and its actors can be told. Seconds and octets."""

from msgspec import Struct, field

from wire.labels import Labels
from wire.logs import LEVEL_DEFAULT

SLOT = "slot"
# What a process ends with that the broker refuses, or in which something still runs.
EXIT_REFUSED = 3
EXIT_FORCED = 4
# What a process ends with that another one is to follow.
EXIT_RETIRED = 5
# And with what, when another one may follow on the word of the broker.
EXIT_SPARE = 6
# Of these nothing is left to do but what libraries do at the end.
EXITS_IN_ORDER = (0, EXIT_RETIRED, EXIT_SPARE)
# What asks a process to leave, SIGTERM, and ends one that is not there yet to hear it.
SIGNAL_DRAIN = 15
ENDPOINT_DEFAULT = "tcp://127.0.0.1:5555"


class Settings(Struct, frozen=True, kw_only=True):
    """What the core of an actor decides by."""

    name: str
    host: int = 0
    pid: int = 0
    python: str = ""
    release: str = ""
    labels: Labels = {}
    slots: dict[str, int] = field(default_factory=lambda: {SLOT: 1})
    # Names of the units of some slot types, as many as there are slots of it.
    units: dict[str, list[str]] = {}
    # How many tasks may run without their slots at once.
    released_max: int = 100
    # How many tasks may wait in the mailbox beyond the slots; None: as the run times say.
    prefetch: int | None = None
    environments_max: int = 1
    # Over so much memory of the process the environment that saves the least leaves; None: never.
    environments_memory_mb: float | None = None
    # Over this share of the memory of the machine or cgroup it takes no new work; None: never.
    memory_high: float | None = 0.95
    # Over this the actor asks for no more work until the clients have taken what is there.
    kept_bytes_max: int = 256 * 2**20
    # A run that must end with its process gets this long to return by itself.
    force_grace_s: float = 5.0


class Launch(Struct, frozen=True, kw_only=True):
    """What a host tells an actor process when it starts it."""

    core: Settings
    broker: str
    # The folder with keys for that, empty for none.
    keys: str = ""
    incarnation: int
    host_name: str
    drain_timeout_s: float = 30.0
    log_format: str = "console"
    log_level: str = LEVEL_DEFAULT
    # Its environment variables beside the host's, where it works, where it finds modules first,
    # which environments it enters at once.
    variables: dict[str, str] = {}
    folder: str = ""
    python_path: list[str] = []
    environments: list[str] = []


class HostSettings(Struct, frozen=True, kw_only=True):
    """What `python -m actor` was told."""

    name: str
    broker: str = ENDPOINT_DEFAULT
    # The folder with keys for that, empty for none.
    keys: str = ""
    labels: Labels = {}
    # What some actors offer beside, by their index.
    labels_of: dict[int, Labels] = {}
    slots: int = 1
    # Slot types other than the plain one, and the names of their units where they have some.
    typed: dict[str, int] = {}
    units: dict[str, list[str]] = {}
    # What this machine has of something that its actors share.
    limits: dict[str, int] = {}
    released_max: int = 100
    replicas: int = 1
    # How many there may be on the word of the broker; 0: as many as there are.
    replicas_max: int = 0
    prefetch: int | None = None
    environments_max: int = 1
    environments_memory_mb: float | None = None
    memory_high: float | None = 0.95
    drain_timeout_s: float = 30.0
    force_grace_s: float = 5.0
    log_format: str = "console"
    log_level: str = LEVEL_DEFAULT
    # What its processes start with; {index} in it is the actor's number.
    variables: dict[str, str] = {}
    folder: str = ""
    python_path: list[str] = []
    environments: list[str] = []
    # An actor whose start is not over after so long is ended, and started again; None: it never is.
    start_timeout_s: float | None = None
    # One that died is started again after this, then each time twice as long.
    restart_first_s: float = 0.1
    restart_max_s: float = 10.0
    # One that ran for so long, or was worn, is started again at once.
    ran_well_s: float = 10.0
