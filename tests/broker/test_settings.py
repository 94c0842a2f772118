"""The defaults are those of the protocol, and fit together."""

import re
from pathlib import Path

import pytest

from broker.settings import Settings

PROTOCOL = (Path(__file__).resolve().parents[2] / "protocol.md").read_text(encoding="utf-8")
DEFAULTS = Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("adopt_window_s", r"`adopt_window` \((\d+) s\)"),
        ("client_timeout_s", r"`client_timeout` \((\d+) s\)"),
        ("crashes_max", r"After (\d+) crashes"),
        ("losses_max", r"or (\d+) losses"),
        ("functions_max", r"`functions_max` (\d+)"),
        ("templates_max", r"`templates_max` ([\d,]+)"),
        ("payload_bytes_max", r"`payload_bytes_max` of WELCOME, default (\d+) MiB"),
        ("suspect_s", r"\| (\d+) s \| \*suspects\* the actor"),
        ("lease_s", r"\| (\d+) s \| ends the lease: the actor is lost"),
        ("gil_grace_s", r"\| (\d+) s \| ends the lease of an attested actor"),
    ],
)
def test_a_default_is_the_one_that_the_protocol_names(name, text):
    found = re.search(text, re.sub(r"\s+", " ", PROTOCOL))
    assert found, text
    stated = int(found[1].replace(",", "")) * (2**20 if "MiB" in text else 1)

    assert getattr(DEFAULTS, name) == stated


def test_silence_is_judged_in_order():
    s = DEFAULTS

    assert s.heartbeat_s < s.suspect_s < s.lease_s < s.gil_grace_s
    assert s.adopt_window_s < s.lease_s < s.client_timeout_s
