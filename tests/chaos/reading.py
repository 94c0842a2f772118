"""Histories that are looked at again and again while they grow.

The proxies are threads of the process that looks: a long history that is read whole after each
fault takes a busy machine so long that what goes through them is lost with its lease.
"""

from pathlib import Path

from tests.chaos.history import Entry, parse


class Reader:
    """Reads of a history only what was written since."""

    def __init__(self, path: Path) -> None:
        """Begin with the first entry."""
        self.path = path
        self.place = 0
        self.known: list[Entry] = []

    def entries(self) -> list[Entry]:
        """Return all entries up to now, in a list that nobody else has."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self.place)
                found = file.read()
            entries, length = parse(found)
            self.known += entries
            self.place += length
        return self.known.copy()
