"""Runs of task numbers, as a HELLO lists what its client waits for: work for spans and tasks only.

A client may wait for many more tasks than the broker has, so nothing here counts through a span.
"""

from bisect import bisect_right
from collections.abc import Iterable

from wire.parts import Span


def merge(spans: Iterable[Span]) -> list[Span]:
    """Return *spans* in order, without overlaps and without those that hold nothing."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if first > last:
            continue
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def holds(merged: list[Span], number: int) -> bool:
    """Tell whether *number* is in one of the *merged* spans."""
    at = bisect_right(merged, number, key=lambda span: span[0]) - 1
    return at >= 0 and number <= merged[at][1]


def without(merged: list[Span], numbers: Iterable[int]) -> list[Span]:
    """Return what is left of *merged* when *numbers*, which all are in it, are taken out."""
    left: list[Span] = []
    spans = iter(merged)
    current = next(spans, None)
    for number in sorted(numbers):
        while current is not None and current[1] < number:
            left.append(current)
            current = next(spans, None)
        assert current is not None
        assert current[0] <= number
        if current[0] < number:
            left.append((current[0], number - 1))
        current = (number + 1, current[1]) if number < current[1] else next(spans, None)
    if current is not None:
        left.append(current)
    left.extend(spans)
    return left
