"""Options of the host that say how long runs and starts may take, and what is waited for."""

import argparse
from typing import Any, Final

from actor.settings import HostSettings
from actor.values import Amount, read, seconds

DEFAULTS: Final = HostSettings(name="")


def add_times(parser: argparse.ArgumentParser) -> None:
    """Add how long runs and starts may take, and what is waited for."""
    for name, default, what in (
        ("drain-timeout", DEFAULTS.drain_timeout_s, "how long SIGTERM lets running tasks go on"),
        (
            "force-grace",
            DEFAULTS.force_grace_s,
            "how long a run that must end may take to return before its process is ended",
        ),
    ):
        parser.add_argument(
            f"--{name}",
            metavar="SECONDS",
            type=seconds,
            default=read(name.replace("-", "_").upper(), default),
            help=f"{what} (default: %(default)s)",
        )
    parser.add_argument(
        "--restart-max",
        metavar="SECONDS",
        type=Amount("a number of seconds above 0", 1e9),
        default=read("RESTART_MAX", DEFAULTS.restart_max_s),
        help="the longest wait before an actor process that ended is started again: the first is"
        f" {DEFAULTS.restart_first_s:g}, each one after it twice as long (default: %(default)s)",
    )
    parser.add_argument(
        "--start-timeout",
        metavar="SECONDS|off",
        type=Amount("a number of seconds above 0", 1e9, may_be_off=True),
        default=read("START_TIMEOUT", "600"),
        help="an actor process that has not loaded its modules and entered each --environment by"
        " then is ended and started again (default: %(default)s)",
    )


def read_times(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_times` asks for, as settings of the host."""
    return {
        "drain_timeout_s": options.drain_timeout,
        "force_grace_s": options.force_grace,
        "start_timeout_s": options.start_timeout,
        "restart_first_s": min(DEFAULTS.restart_first_s, options.restart_max),
        "restart_max_s": options.restart_max,
    }
