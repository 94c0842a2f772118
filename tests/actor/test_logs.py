"""What a host and its actors write into the one stderr that they share."""

import io
import json

import pytest
import structlog

from actor.logs import configure_logs


class Stderr(io.StringIO):
    """Keeps each write apart."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, text):
        self.writes.append(text)
        return len(text)


@pytest.fixture(autouse=True)
def _structlog_is_left_as_it_was():
    yield
    structlog.reset_defaults()


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
