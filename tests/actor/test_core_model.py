"""The actor's core against a broker that obeys, over a connection that loses and cuts."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.actor.broker_end import HASH, connected, environment, make_core
from wire.labels import Comparator, Desire
from wire.messages import Assign
from wire.parts import Call, Held, Status

SLOTS = 2
PREFETCH = 2


class ActorModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.core = make_core(slots=SLOTS, prefetch=PREFETCH, environments_max=2)
        self.end = connected(self.core)
        # Whether the broker has only assigned what the actor had granted.
        self.is_obedient = True
        # How often a run asked for its slots; whether one did of which the broker has not heard.
        self.asked = 0
        self.wants_again = False

    # --- what the broker does

    @precondition(lambda self: self.end.is_open and self.end.available)
    @rule(kind=st.sampled_from(["plain", "a", "b", "c", "picky"]), full=st.booleans())
    def assign_what_was_granted(self, kind, full):
        for _ in range(self.end.available if full else 1):
            self.end.assign(self.template(kind))

    @precondition(lambda self: self.end.is_open and len(self.end.assigned) < 8)
    @rule(kind=st.sampled_from(["plain", "a", "wide"]))
    def assign_what_was_not_granted(self, kind):
        if self.end.available < 1:
            self.is_obedient = False
        self.end.assign(self.template(kind))

    def template(self, kind):
        known = {call.name: slot for slot, call in self.end.templates.items()}
        if kind in known:
            return known[kind]
        options = {
            "plain": {},
            "wide": {"slots": {"slot": 2}},
            "picky": {"desires": [Desire("zone", Comparator.NOT_EQUAL, "us")]},
        }.get(kind, {"environment": environment(kind)})
        if kind == "wide":
            self.is_obedient = False
        return self.end.template(Call(kind, HASH, **options))

    @precondition(lambda self: self.end.is_open and self.end.assigned)
    @rule(data=st.data(), force=st.booleans())
    def stop(self, data, force):
        token = data.draw(st.sampled_from(sorted(self.end.assigned)))
        self.end.stop(token, force=force)

    @precondition(lambda self: self.end.is_open)
    @rule()
    def acknowledge(self):
        self.end.acknowledge()

    # --- what the connection does

    @precondition(lambda self: self.end.to_actor)
    @rule()
    def bring_to_actor(self):
        self.end.tell()

    @precondition(lambda self: self.end.to_broker)
    @rule()
    def bring_to_broker(self):
        self.end.hear()

    @rule()
    def bring_everything(self):
        self.end.carry()

    @rule(what=st.sampled_from(["cut", "broken", "repeat", "restart"]))
    def disturb(self, what):
        if what == "repeat" and self.end.to_actor:
            self.end.to_actor.append(self.end.to_actor[0])
        elif what == "restart":
            self.end.restart()
        elif what != "repeat":
            self.end.cut()
            if what == "broken":
                self.core.broken(self.end.now)

    # --- what the actor does

    @rule()
    def turn(self):
        self.end.turn()

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.1, 6.0]))
    def pass_time(self, seconds):
        self.end.pass_time(seconds)
        if self.core.stopping.force_at > self.end.now:
            self.end.turn()

    @precondition(lambda self: self.end.started)
    @rule(data=st.data(), works=st.booleans())
    def finish(self, data, works):
        token = data.draw(st.sampled_from(sorted(self.end.started)))
        self.load(token, works=works)
        self.end.finish(token, Status.RESULT if works else Status.FAILURE)

    @precondition(lambda self: self.end.started)
    @rule(data=st.data())
    def release(self, data):
        token = data.draw(st.sampled_from(sorted(self.end.started)))
        self.load(token, works=True)
        was = self.end.started[token].held
        assert self.core.release(token, None, self.end.now) == (was is Held.RUNNING)

    @precondition(lambda self: self.end.started)
    @rule(data=st.data(), timeout_s=st.sampled_from([None, 0.5, 3.0]))
    def reacquire(self, data, timeout_s):
        token = data.draw(st.sampled_from(sorted(self.end.started)))
        self.load(token, works=True)
        slots = self.end.started[token].recipe.slots
        if token not in self.core.mailbox.reacquiring:
            self.asked += 1
            self.core.reacquire(token, slots, self.end.now, timeout_s=timeout_s)

    @precondition(lambda self: self.core.mailbox.reacquiring)
    @rule(data=st.data())
    def withdraw(self, data):
        token = data.draw(st.sampled_from(sorted(self.core.mailbox.reacquiring)))
        self.core.withdraw(token, self.end.now)

    def load(self, token, *, works):
        assignment = self.end.started[token]
        if assignment.loads:
            assignment.loads = False
            place = assignment.recipe.call.environment
            if works:
                self.core.entered(token, place, 0.1, self.end.now)
            else:
                self.core.environment_lost(place.id, self.end.now)

    @rule(zone=st.sampled_from(["eu", "us"]))
    def change_labels(self, zone):
        self.core.change_labels({"zone": zone}, self.end.now)

    # --- what must hold

    @invariant()
    def the_core_is_sound(self):
        self.core.check()

    @invariant()
    def nobody_counts_on_more_than_there_is(self):
        """What may still be assigned, what travels and what is here fit into slots and mailbox."""
        if not self.end.is_open or not self.is_obedient:
            return
        is_behind = self.core.is_stale or bool(self.end.to_broker)
        self.wants_again |= bool(self.core.mailbox.reacquiring)
        if self.wants_again and is_behind:
            return  # That a run wants its slots again, or has them, the broker has yet to hear.
        self.wants_again = bool(self.core.mailbox.reacquiring)
        here = sum(a.held is not Held.RELEASED for a in self.core.mailbox.held.values())
        here += sum(
            a.assignment.held is Held.RELEASED for a in self.core.mailbox.reacquiring.values()
        )
        travelling = {
            command.number
            for frame, _ in self.end.to_actor
            if frame.session == self.end.session and frame.number > self.core.session.received
            for command in frame.commands
            if isinstance(command, Assign) and (self.end.epoch, command.number) > self.core.highest
        }
        if self.core.session.number == self.end.session and self.core.session.is_open:
            # What crossed such a wish may wait ahead, one more than fits; nothing else comes then.
            total = self.end.available + len(travelling) + here
            assert total <= SLOTS + PREFETCH or not self.end.available

    @invariant()
    def slots_are_never_given_twice(self):
        running = [a for a in self.end.started.values() if a.held is Held.RUNNING]
        assert sum(a.slots.get("slot", 0) for a in running) <= SLOTS

    def teardown(self):
        """In the end everything is answered and all credit is back."""
        end = self.end
        end.cut()
        for _ in range(40):
            end.pass_time(1.0)
            end.carry()
            for token in list(end.started):
                self.load(token, works=True)
                end.finish(token)
            if end.is_open:
                end.acknowledge()
            end.carry()
        assert end.is_open
        assert len(end.answers) == self.asked
        assert not end.assigned, end.assigned
        assert not self.core.mailbox.held
        assert not self.core.outcomes.kept
        if not self.core.exit_reason:
            prefetch = self.core.prefetch
            assert end.available == SLOTS + prefetch.ahead
            # Until a run has ended nothing is granted ahead where one was a long one.
            assert prefetch.ahead == PREFETCH or prefetch.is_stuck


ActorModel.TestCase.settings = settings(
    max_examples=80, stateful_step_count=50, deadline=None, derandomize=True
)
test_actor_model = ActorModel.TestCase
