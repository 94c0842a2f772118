"""What a host and its actors write into the one stderr that they share."""

import io
import json

import pytest
import structlog

from actor.logs import configure_logs, log_notes


class Stderr(io.StringIO):
    """Keeps each write apart."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, text):
        self.writes.append(text)
        return len(text)


@pytest.mark.parametrize("style", ["json", "console"])
def test_an_event_is_one_line_and_one_write(monkeypatch, style):
    stderr = Stderr()
    monkeypatch.setattr("sys.stderr", stderr)
    configure_logs(style)

    structlog.get_logger("host").info("draining", actors=2)

    (line,) = stderr.writes
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert "draining" in line
    if style == "json":
        assert json.loads(line)["actors"] == 2


def test_what_somebody_has_to_look_at_is_a_warning_and_what_is_usual_can_be_left_out(monkeypatch):
    stderr = Stderr()
    monkeypatch.setattr("sys.stderr", stderr)
    # As in a process that begins: a logger goes on as it was when it was first used.
    monkeypatch.setattr("actor.logs.log", structlog.get_logger("actor"))
    configure_logs("json", "warning")

    log_notes([("actor_started", {"pid": 7}), ("actor_died", {"signal": 9})], host="gpu1")
    log_notes([("memory", {"high": True}), ("memory", {"high": False})], actor="gpu1/0")
    structlog.get_logger("task").info("a line of a task")

    lines = [json.loads(line) for line in stderr.writes]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("actor_died", "warning"),
        ("memory", "warning"),
    ]
    assert lines[0]["host"] == "gpu1"


def test_with_debug_what_is_usual_of_every_run_is_written_as_well(monkeypatch):
    stderr = Stderr()
    monkeypatch.setattr("sys.stderr", stderr)
    # As in a process that begins: a logger goes on as it was when it was first used.
    monkeypatch.setattr("actor.logs.log", structlog.get_logger("actor"))
    configure_logs("json", "debug")

    log_notes([("rejected", {"reason": "draining"})], actor="gpu1/0")

    assert [json.loads(line)["level"] for line in stderr.writes] == ["debug"]
