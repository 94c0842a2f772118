"""Log lines cost nothing but the line."""

import io
import os

import pytest

from wire.stream import Stream


@pytest.fixture
def pipe():
    """Return a reader's descriptor, and a stream whose lines it reads."""
    reader, writer = os.pipe()
    with io.TextIOWrapper(io.FileIO(writer, "w")) as file, io.FileIO(reader):
        os.set_blocking(reader, False)
        yield reader, Stream(file)


def everything(reader):
    found = []
    while True:
        try:
            found.append(os.read(reader, 2**16))
        except BlockingIOError:
            return b"".join(found).decode()


def test_a_reader_that_does_not_read_costs_lines_and_no_wait_and_is_told_how_many(pipe):
    reader, stream = pipe
    line = f"{'x' * 99}\n"

    for _ in range(10_000):
        stream.write(line)  # More than any pipe has room for.

    lost = stream.add_lost(None, "info", {})["lines_lost"]
    read = everything(reader)
    assert read == line * (10_000 - lost)
    stream.write("again\n")
    assert everything(reader) == "again\n"
    assert stream.add_lost(None, "info", {"a": 1}) == {"a": 1}


def test_a_line_that_was_cut_ends_before_the_next_one(pipe):
    reader, stream = pipe

    stream.write("y" * 2**21 + "\n")
    cut = everything(reader)
    stream.write("whole\n")

    assert cut
    assert set(cut) == {"y"}
    assert everything(reader) == "\nwhole\n"


def test_what_no_encoding_has_is_written_all_the_same(pipe):
    reader, stream = pipe

    stream.write("\ud800 é\n")

    assert everything(reader) == "\\ud800 é\n"


def test_who_has_put_something_in_the_place_of_standard_error_gets_the_lines():
    class Tee(io.StringIO):
        def fileno(self):
            raise AssertionError("belongs to another file")

    file = Tee()
    stream = Stream(file)
    stream.write("one\n")
    stream.flush()

    assert file.getvalue() == "one\n"
