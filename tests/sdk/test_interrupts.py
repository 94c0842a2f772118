"""Ctrl-C at any moment of a call: it is raised, and the client goes on."""

import dis
import gc
import sys
import threading
import weakref
from functools import lru_cache

import pytest

from sdk import Client
from tests.sdk.fakes import ScriptedBroker, echo
from tests.support.deployment import DEADLINE_S

pytestmark = [pytest.mark.process, pytest.mark.slow]

TIMEOUT_S = DEADLINE_S
SHORT_MAX = 10
# After these the interpreter looks for signals.
LOOKS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"}


@lru_cache(None)
def instructions(code):
    return {one.offset: one.opname for one in dis.get_instructions(code)}


class Interrupt:
    """Raises KeyboardInterrupt as the *n*-th look for signals of this thread would."""

    def __init__(self, n):
        self.rest = n
        self.last = {}
        self.at = None

    def __call__(self, frame, event, argument):
        frame.f_trace_opcodes = True
        if event == "return":
            self.last.pop(frame, None)
        elif event == "opcode":
            last, now = self.last.get(frame), instructions(frame.f_code).get(frame.f_lasti)
            self.last[frame] = now
            # In Python 3.11 the first half of a call may have done it all.
            if last in LOOKS or (last == "PRECALL" and now != "CALL"):
                self.rest -= 1
                if self.rest == 0:
                    self.at = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                    raise KeyboardInterrupt
        return self


@pytest.fixture
def without_collections():
    """Let nothing be collected: a tool of the tests runs code then, in which Ctrl-C is dropped."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collections")
def test_ctrl_c_at_any_moment_of_a_call_is_raised_and_loses_nothing(monkeypatch):
    # Looks before a sleep are as many as there is time for: one after the other takes for ever.
    monkeypatch.setenv("WARMSLOT_SPIN_US", "0")
    lost, n, is_short = [], 1, 0
    with ScriptedBroker(echo) as broker, Client(broker.endpoint) as client:
        assert client.submit(abs, 0).result(TIMEOUT_S) is not None
        # Where the daemon has read the answer meanwhile, a call is over sooner than others are.
        while is_short < SHORT_MAX:
            interrupt, future, is_raised = Interrupt(n), None, False
            former = sys.gettrace()
            sys.settrace(interrupt)
            try:
                future = client.submit(abs, n)
                future.result(TIMEOUT_S)
            except KeyboardInterrupt:
                is_raised = True
            finally:
                sys.settrace(former)
            is_short = is_short + 1 if interrupt.at is None else 0
            n += interrupt.at is not None
            if interrupt.at is not None and not is_raised:
                lost.append(f"dropped at {interrupt.at}")
            later = client.submit(abs, -n)
            assert later.result(TIMEOUT_S) is not None, interrupt.at
            if future is not None and future.exception(TIMEOUT_S) is not None:
                lost.append(f"failed at {interrupt.at}")
            assert not client._connection.futures, interrupt.at
    assert n > 20
    assert not lost


def test_a_closed_client_leaves_the_collector_nothing_that_runs_code():
    """Python drops a Ctrl-C that is raised in a `__del__`, and a collection takes its time."""
    with ScriptedBroker(echo) as broker:
        client = Client(broker.endpoint)
        client.submit(abs, 1).result(TIMEOUT_S)
        client.submit(abs, 2).cancel()
        gc.collect()
        gc.disable()
        flags = gc.get_debug()
        try:
            client.close()
            del client
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [
                one
                for one in gc.garbage
                if hasattr(type(one), "__del__")
                or any(ref.__callback__ is not None for ref in weakref.getweakrefs(one))
            ]
        finally:
            gc.set_debug(flags)
            gc.garbage.clear()
            gc.enable()
    assert not left
    assert threading.current_thread() is threading.main_thread()
