"""Ctrl-C while `python -m sdk` loads, which begins with the whole package: imported first."""

from wire.loading import end_at_once, is_program

if is_program("sdk"):
    end_at_once()
