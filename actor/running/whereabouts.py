"""Where a thread or a coroutine is at this moment, as a traceback would say if it raised there.

Who is told that something took too long wants to know what hangs.
"""

import sys
import traceback
from collections.abc import Container, Iterator
from types import CodeType, FrameType
from typing import Any, Final

# Of a deep stack the last ones: where it hangs.
FRAMES_MAX: Final = 50


def of_thread(ident: int, own: Container[CodeType]) -> str:
    """Say where a thread is, from below the last of our *own* code that is named; "" if nowhere."""
    frames = list(stack_of(sys._current_frames().get(ident)))  # noqa: SLF001 - there is no other.
    places = [place for place, frame in enumerate(frames) if frame.f_code in own]
    return told(frames[places[-1] + 1 :] if places else frames)


def of_coroutine(coroutine: Any) -> str:
    """Say where a coroutine waits, or runs; an empty text where nobody can know."""
    frames = []
    while (frame := frame_of(coroutine)) is not None:
        frames.append(frame)
        inner = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
        if inner is None:
            # It waits for nothing: some thread is in there.
            return told([*frames, *called_by(frame)])
        coroutine = inner
    return told(frames)


def frame_of(coroutine: Any) -> FrameType | None:
    """Return the frame of a coroutine or generator that has not ended."""
    frame: FrameType | None = getattr(coroutine, "cr_frame", None)
    return frame or getattr(coroutine, "gi_frame", None)


def called_by(frame: FrameType) -> list[FrameType]:
    """Return the frames below *frame*, in whichever thread is inside of it."""
    for newest in sys._current_frames().values():  # noqa: SLF001 - there is no other.
        frames = list(stack_of(newest))
        if frame in frames:
            return frames[frames.index(frame) + 1 :]
    return []


def stack_of(newest: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames of a stack, the oldest first."""
    frames = []
    while newest is not None:
        frames.append(newest)
        newest = newest.f_back
    yield from reversed(frames)


def told(frames: list[FrameType]) -> str:
    """Format *frames* as a traceback does."""
    shown = frames[-FRAMES_MAX:]
    if not shown:
        return ""
    lines = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in shown).format()
    return "".join(["Traceback (most recent call last):\n", *lines])
