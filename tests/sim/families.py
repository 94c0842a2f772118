"""Calls that runs make end with these: a run that is lost, fails or is canceled makes none again.

So do those that are not durable with a run that had its time, also where that is the outcome.
Who counts no more is told from what the broker says: STOP, or another assignment of the same task.
What must hold then: of the calls that were made in that run none waits, none runs, none starts.
"""

from typing import TYPE_CHECKING, Any

from broker.events.recovery import UNCLAIMED
from broker.events.strategies import NEWER
from broker.facts.task import State
from wire.messages import Assign, Outcome, Stop
from wire.parts import Status, Token

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.facts.task import Task
    from tests.sim.actors import ActorProcess
    from tests.sim.records import TaskRecord
    from tests.sim.world import World


class Families:
    """Which runs are over without an outcome, and which calls were made in which run."""

    def __init__(self, world: "World") -> None:
        """Begin with nobody related."""
        self.world = world
        self.children: dict[Token, list[TaskRecord]] = {}
        # The newest assignment of each task, runs that are over, and those that just are.
        self.current: dict[tuple[int, int], Token] = {}
        self.over: set[Token] = set()
        # Which runs any broker has ended for a newer task with the same key of a limit.
        self.outdone: set[Token] = set()
        self._new: list[Token] = []
        # Runs whose outcome the broker that lives has taken: what they made goes on without them.
        self.ended: set[Token] = set()
        # Those of them that had their time and are not tried again, ever and just now.
        self.cut_off: set[Token] = set()
        self._cut: list[Token] = []
        # Which runs the broker that lives took over in its adopt window.
        self.adopted: set[Token] = set()
        # Those of them whose task the journal does not know, or knows no more.
        self.unwritten: set[Token] = set()
        # Runs of which a call is known to have ended with them.
        self.parted: set[Token] = set()
        # Given to the actor of a run of the task that made it, as far as the broker knew.
        self.own: set[Token] = set()
        self._core: Broker | None = None
        self._is_open = True

    def submitted(self, record: "TaskRecord", parent: Token | None) -> None:
        """Note in which run a call was made."""
        if parent is not None and self._ends_with(record, parent):
            self.children.setdefault(parent, []).append(record)

    def _ends_with(self, record: "TaskRecord", parent: Token) -> bool:
        """Tell whether a call ends however its run does that has no outcome.

        A durable one outlives the client whose task has made it, and with a key a lost run as well.
        """
        if not record.call.durable:
            return True
        client, number, _ = self.world.oracle.assigned[parent]
        maker = self.world.oracle.tasks[client, number]
        return maker.call.durable and record.key is None

    def told_actor(self, epoch: int, command: Any) -> None:
        """Follow which runs count."""
        assert self.world.broker is not None
        self._meets(self.world.broker.core)
        match command:
            case Assign():
                name = (command.client, command.task)
                former = self.current.get(name)
                self.current[name] = (epoch, command.number)
                # One that has an outcome is run again only for a client that was given up with it.
                if former is not None and former not in self.ended:
                    self._ends(former)
                self._check_start(self.world.oracle.tasks.get(name))
            case Stop():
                self._check_stop((command.epoch, command.number))
                if command.reason.startswith(NEWER):
                    self.outdone.add((command.epoch, command.number))
                self._ends((command.epoch, command.number))

    def heard(self, core: "Broker", frame: Any) -> None:
        """Follow which runs have an outcome, once the broker has heard *frame*."""
        self._meets(core)
        for command in frame.commands:
            if type(command) is Outcome:
                token = (command.epoch, command.number)
                task = core.tokens.get(token)
                if task is not None and is_decided(task):
                    self.ended.add(token)
                if command.status is Status.EXPIRED and task and task.state is State.ENDED:
                    self.cut_off.add(token)
                    self._cut.append(token)

    def told_gone(self, record: "TaskRecord") -> None:
        """Note that whoever made a call was told that the run in which it was made is over."""
        # One that had its time may still be offered, with that outcome.
        has_ended = record.parent in self.cut_off
        if record.parent is not None and not has_ended and self._ends_with(record, record.parent):
            self.parted.add(record.parent)

    def _check_stop(self, token: Token) -> None:
        """Check that of two runs of one task the later one goes on (8.4 rule 3).

        An adopted run is stopped also for an earlier one that is over and leaves nothing to try.
        """
        assert self._core is not None
        incarnation, number, _ = self.world.oracle.assigned[token]
        client = self._core.clients.get(incarnation)
        task = client.tasks.get(number) if client is not None else None
        if task is not None and task.state in (State.ASSIGNED, State.UNCLAIMED_RUN):
            is_decided = task.is_finished and not task.is_retriable
            if is_decided and token[0] != self._core.epoch:
                return
            assert task.token is None or task.token >= token, (
                f"{task.name} goes on as {task.token}, and {token} is stopped"
            )

    def _ends(self, token: Token) -> None:
        if token not in self.over:
            self.over.add(token)
            self._new.append(token)

    def _check_start(self, record: "TaskRecord | None") -> None:
        if record is None or record.parent is None or not self._ends_with(record, record.parent):
            return
        if record.call.durable and record.parent in self.unwritten:
            return
        assert record.parent not in self.over or not self._is_known(record.parent), (
            f"{record.name} is assigned, and the run that made it is over"
        )

    def _is_known(self, token: Token) -> bool:
        """Tell whether the broker that lives assigned a run, or took it over in time."""
        return self._core is not None and (token[0] == self._core.epoch or token in self.adopted)

    def _meets(self, core: "Broker") -> None:
        """Begin anew with another broker: what an earlier one has ended it does not know."""
        if core is not self._core:
            self._core, self._is_open = core, True
            self.adopted, self.over, self._new = set(), set(), []
            self.unwritten = set()
            self.ended, self._cut = set(), []
            self.parted = {token for token in self.parted if self._is_told_over(core, token)}

    def _is_told_over(self, core: "Broker", token: Token) -> bool:
        """Tell whether a broker that starts is to know that a run counts no more.

        From its journal, or from the client: the one before may have died before either had it.
        """
        name = self.world.oracle.assigned[token][:2]
        client = core.clients.get(name[0])
        task = client.tasks.get(name[1]) if client is not None else None
        if task is not None and task.trouble is not None and token <= task.trouble.failed:
            return True
        owner = self.world.oracle.tasks[name].client
        if not hasattr(owner, "core"):
            return False  # The broker called itself, for a copy; the next one calls anew.
        told = owner.core._trials.told.get(name[1])
        return told is not None and told[0].failed is not None and token <= told[0].failed

    def told_assign(self, actor: "ActorProcess", token: Token) -> None:
        """Note whether a call is given to where its own maker is."""
        oracle, broker = self.world.oracle, self.world.broker
        record = oracle.tasks.get(oracle.assigned[token][:2])
        # None where the broker calls itself, for copies that it wants.
        if record is None or record.parent is None or broker is None:
            return
        incarnation, number = oracle.assigned[record.parent][:2]
        client = broker.core.clients.get(incarnation)
        maker = client.tasks.get(number) if client is not None else None
        there = maker.actor if maker is not None else None
        if there is not None and there.incarnation == actor.incarnation:
            self.own.add(token)

    def looked(self, core: "Broker") -> None:
        """Check after a turn of the broker that nothing is left of the runs that ended in it."""
        self._meets(core)
        if self._is_open and core.window_ends_at is None:
            self._is_open = False
            self.adopted = set(core.tokens)
            self.unwritten = {token for token, task in core.tokens.items() if task.record is None}
        for token in self.parted:
            task = core.tokens.get(token)
            assert task is None or task.state is not State.ASSIGNED, (
                f"{task.name} goes on as {token}, and calls of that have ended with it"
            )
        cut, self._cut = self._cut, []
        known = filter(self._is_known, cut)
        for record in (one for token in known for one in self.children.get(token, ())):
            client = core.clients.get(record.client.incarnation)
            task = client.tasks.get(record.number) if client is not None else None
            is_over = task is None or task.is_over or task.state in UNCLAIMED
            assert is_over or record.call.durable, (
                f"{record.name} is {task and task.state}, and the run that made it had its time"
            )
        new, self._new = self._new, []
        for token in new:
            for record in self.children.get(token, ()) if self._is_known(token) else ():
                client = core.clients.get(record.client.incarnation)
                task = client.tasks.get(record.number) if client is not None else None
                if record.call.durable and token in self.unwritten:
                    continue  # Nobody can tell whether its task is one whose client is gone.
                if task is not None and task.state in UNCLAIMED:
                    continue  # Whose call it is only its client can say.
                assert task is None or task.is_over, (
                    f"{record.name} is {task.state}, and the run that made it is over"
                )


def is_decided(task: "Task") -> bool:
    """Tell whether an outcome ends a task, whoever is to have it, and lets it be tried no more."""
    is_kept = task.state is State.UNCLAIMED_OUTCOME and not task.is_retriable
    return task.state is State.ENDED or is_kept
