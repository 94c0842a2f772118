"""The log: one line an event, bounded, and never a reason to stop."""

import gc
import io
import json
import re

from broker.log import LINES_MAX, LINES_MAX_OF, WARNINGS, WINDOW_S, NoteLog, open_log
from tests.support.deployment import ROOT


class Gone(io.StringIO):
    """A standard error whose reader went away."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


def lines(file):
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_a_line_of_json_is_an_event_with_its_fields():
    file = io.StringIO()

    open_log("json", file).info("broker_ready", endpoints=["ipc://x"], epoch=7)

    (line,) = lines(file)
    assert (line["event"], line["endpoints"], line["epoch"]) == ("broker_ready", ["ipc://x"], 7)
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")


def test_what_json_does_not_know_is_written_as_text():
    file = io.StringIO()

    open_log("json", file).info("odd", value={1, 2}, error=ValueError("x"))

    assert lines(file)[0]["error"] == "x"


def test_an_exception_is_logged_with_its_traceback():
    for log_format in ("json", "console"):
        file = io.StringIO()
        try:
            {}["planted"]
        except KeyError:
            open_log(log_format, file).critical("broker_failed", exc_info=True)

        assert "KeyError: 'planted'" in file.getvalue()
        assert "Traceback" in file.getvalue()


def test_a_reader_that_is_gone_is_no_reason_to_stop():
    for log_format in ("json", "console"):
        for file in (Gone(), None):
            open_log(log_format, file).info("broker_ready")


def test_the_console_has_the_time_as_json_has_it():
    file = io.StringIO()

    open_log("console", file).info("broker_ready")

    assert file.getvalue().split()[0].endswith("Z")


def test_a_routing_id_is_written_in_hexadecimal():
    file = io.StringIO()

    NoteLog(open_log("json", file)).write([("send_refused", {"rid": b"\x00\xff"})], 0.0)

    assert lines(file)[0]["rid"] == "00ff"
    assert lines(file)[0]["level"] == "warning"


def test_of_one_event_only_so_many_are_written_and_the_rest_is_counted():
    file = io.StringIO()
    notes = NoteLog(open_log("json", file))

    notes.write([("bad_message", {})] * 50 + [("session_opened", {})] * (LINES_MAX + 3), 0.0)
    notes.write([("bad_message", {})] * 50, WINDOW_S - 1)
    notes.write([("bad_message", {})], WINDOW_S + 1)

    written = [line["event"] for line in lines(file)]
    left_out = {line["of"]: line["count"] for line in lines(file) if "of" in line}
    assert written.count("bad_message") == LINES_MAX_OF["bad_message"] + 1
    assert written.count("session_opened") == LINES_MAX
    assert left_out == {"bad_message": 100 - LINES_MAX_OF["bad_message"], "session_opened": 3}


def test_a_line_leaves_nothing_to_the_collector_of_garbage():
    log = open_log("console", io.StringIO())
    log.info("first")
    gc.collect()
    before = len(gc.get_objects())

    for _ in range(100):
        log.info("event", field=1)

    assert len(gc.get_objects()) - before < 100


def test_only_what_is_of_the_level_or_above_is_written():
    file = io.StringIO()
    log = open_log("json", file, level="warning")
    notes = NoteLog(log, level="warning")

    log.info("broker_ready")
    notes.write([("retry", {}), ("actor_lost", {}), ("bad_message", {})], 0.0)
    log.critical("broker_failed")

    levels = [(line["event"], line["level"]) for line in lines(file)]
    assert levels == [
        ("actor_lost", "warning"),
        ("bad_message", "warning"),
        ("broker_failed", "critical"),
    ]


STATUS_CLIENT = [
    ("session_opened", {"role": "client", "name": "warmslot", "session": 1}),
    ("client_left", {"client": "warmslot", "tasks": 0}),
]


def test_who_asks_for_the_status_all_day_writes_no_line_and_hides_no_other():
    file = io.StringIO()
    notes = NoteLog(open_log("json", file))

    for _ in range(LINES_MAX + 1):
        notes.write(STATUS_CLIENT, 0.0)
    notes.write([("session_opened", {"role": "actor"})], 0.0)
    notes.write([("client_left", {"client": "app", "tasks": 2})], WINDOW_S + 1)

    assert [line["event"] for line in lines(file)] == ["session_opened", "client_left"]


def test_a_client_that_comes_and_goes_is_told_of_where_that_was_asked_for():
    file = io.StringIO()

    NoteLog(open_log("json", file, level="debug"), level="debug").write(STATUS_CLIENT, 0.0)

    assert [line["level"] for line in lines(file)] == ["debug", "debug"]


def test_each_event_that_is_a_warning_is_one_that_somebody_notes():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "broker").rglob("*.py")]
    noted = set(
        re.findall(r'"([a-z_]+)"', "\n".join(t for t in texts if "WARNINGS: Final" not in t))
    )

    # What the journal says of itself has its name from a state.
    assert noted >= WARNINGS - {"journal_stuck"}


def test_what_placing_does_with_single_tasks_is_no_news():
    file = io.StringIO()

    NoteLog(open_log("json", file)).write([("adopted", {}), ("recovered", {"tasks": 1})], 0.0)

    assert [line["event"] for line in lines(file)] == ["recovered"]
