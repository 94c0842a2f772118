"""What a broker can be told, with the numbers of protocol.md as defaults."""

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True):
    """Numbers that the core decides by. Seconds and octets."""

    heartbeat_s: float = 1.0
    suspect_s: float = 2.0
    lease_s: float = 5.0
    gil_grace_s: float = 60.0
    adopt_window_s: float = 2.0
    client_timeout_s: float = 10.0
    window_tasks: int = 100_000
    window_bytes: int = 256 * 2**20
    payload_bytes_max: int = 256 * 2**20
    functions_max: int = 512
    templates_max: int = 4_096
    outcome_ttl_s: float = 86_400.0
    journal_bytes_max: int = 2 * 2**30
    dead_tasks_max: int = 1_000
    dead_bytes_max: int = 64 * 2**20
    crashes_max: int = 3
    losses_max: int = 5
    # How often a task may be in a process that crashes under it and others.
    shared_max: int = 10
    isolation_s: float = 2.0
    # An environment that cannot be entered: when again, how often in a row, for how long not.
    environment_retry_s: float = 1.0
    environment_failures_max: int = 3
    environment_broken_s: float = 60.0
    sticky_ttl_s: float = 600.0
    sticky_keys_max: int = 262_144
    # How long a task without environment waits before a host starts one more actor for it, and how
    # long an actor above the minimum has nothing before it leaves.
    scale_after_s: float = 1.0
    scale_down_s: float = 5.0
