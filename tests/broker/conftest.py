"""What several tests of the broker start from: a journal, and who hears what it announces."""

import contextlib

import pytest

from broker.disk.journal import SqliteJournal
from tests.broker.test_journal import OPERATIONS, STATEMENTS, Ear


@pytest.fixture
def ear():
    with contextlib.closing(Ear()) as ear:
        yield ear


@pytest.fixture
def journal_in(ear):
    """Start journals that are closed before their announcer is."""
    with contextlib.ExitStack() as stack:

        def begin(folder, **options):
            options = {"operations": OPERATIONS, "statements": STATEMENTS} | options
            journal = SqliteJournal(folder, **options)
            stack.callback(journal.close)
            return journal, journal.start(ear.announcer)

        yield begin
