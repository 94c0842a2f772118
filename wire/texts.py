"""Texts as they are sent: in UTF-8, which has no half of a surrogate pair.

Python makes such halves of octets that are no UTF-8, as in the names of files, and takes them for
letters. The rule that must not be broken: no such text gets as far as a frame, which could not be
encoded, with all that stands in it.
"""

from typing import Final

# So much is told of a value that is refused.
TOLD_MAX: Final = 200
# So much of a whole line, which says what would be right as well.
LINE_MAX: Final = 500
# Of 64 bits, and far below what Python refuses to read.
DIGITS_MAX: Final = 20


def is_sendable(text: str) -> bool:
    """Tell whether *text* can stand in a message."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(what: str, text: str) -> None:
    """Raise ValueError, which names *what* it is, unless *text* can stand in a message."""
    if not is_sendable(text):
        raise ValueError(f"{what} {brief(text)} is no valid text: it has half of a surrogate pair")


def sendable(text: str) -> str:
    """Return *text* with what cannot be sent written as in a Python string."""
    return text if is_sendable(text) else text.encode(errors="backslashreplace").decode()


def is_whole(text: str) -> bool:
    """Tell whether *text* is a whole number, and no longer than any of use."""
    return text.isascii() and text.isdigit() and len(text) < DIGITS_MAX


def brief(value: object) -> str:
    """Write *value* as Python does, in one short line, for who is told what was wrong with it."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a number of thousands of digits, or code of a user.
        return f"a value of type {type(value).__name__}"
    return cut(" ".join(text.split()) if "\n" in text else text)


def cut(text: str, at_most: int = TOLD_MAX) -> str:
    """Return *text*, or where it is long the beginning, and how long it is."""
    return text if len(text) <= at_most else f"{text[:at_most]}... ({len(text):,} characters)"


def one_line(error: object) -> str:
    """Write what a command line is refused for in one line, whatever of it stands there again."""
    return cut(" ".join(str(error).split()), LINE_MAX)
