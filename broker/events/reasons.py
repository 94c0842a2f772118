"""Why a queued task waits: in one line, for each actor, and since when.

Nothing is remembered for it: what is said is read from what stands, when somebody asks. Since when
it stands so is the time of the last change that could have made it otherwise.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from heapq import nsmallest
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.facts.peers import Actor, Host, is_barred
from broker.facts.task import Task
from broker.facts.unmet import say_slots, unmet
from broker.holding import occupants, wants
from broker.placing import preference, replicas
from broker.tasks import bindings
from broker.waiting.costs import SLOT
from wire.labels import satisfies

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.waiting.shapes import Shape

ACTORS_SHOWN_MAX: Final = 3
# Among so many of those that are connected those are looked for that are to be shown.
ACTORS_SEEN_MAX: Final = 256
CLIENT_PAUSED: Final = "its client does not receive its results"


class Reason(NamedTuple):
    """Why a task waits, since when, and whether any actor that is connected could ever take it."""

    text: str
    since: float
    is_satisfiable: bool = True


def reason_of(broker: "Broker", task: Task, now: float) -> Reason:
    """Sum up in one line why *task*, which is queued, waits."""
    assert task.template
    queued_at, shape = task.queued_at, task.template.shape
    actors = list(broker.actors.values())
    if task.client.is_paused:
        return Reason(CLIENT_PAUSED, queued_at)
    if not actors:
        since = max(queued_at, broker.departed_at)
        text = f"no actor is connected{hosts_without(broker)}"
        return Reason(text, since, is_satisfiable=False)
    able = [actor for actor in actors if shape.suits(actor)]
    full = ""
    if task.call.limits:
        full, _ = occupants.explain(broker, task)
        if full and (able or shape.sticky):
            return Reason(full, queued_at)
        # It came before all hosts were there, which would have had it refused at once.
        refused = wants.refusal(broker, task.call.limits, None)
        if refused is not None:
            return Reason(refused[1], queued_at, is_satisfiable=False)
    text, is_satisfiable = bindings.reason(broker, task)
    if text:
        return Reason(text, queued_at, is_satisfiable=is_satisfiable)
    if text := preference.explain(task, now):
        return Reason(text, queued_at)
    if not able:
        # Those first that lack the least: one of these was meant.
        near = nsmallest(ACTORS_SHOWN_MAX, actors[:ACTORS_SEEN_MAX], partial(shortfall, task))
        shown = [f"{one.name}: {unmet(task, one)}" for one in near]
        more = "; ..." if len(actors) > len(shown) else ""
        text = f"no connected actor satisfies it ({'; '.join(shown)}{more})"
        text += f"; and {full}" if full else ""
        changed_at = max(broker.departed_at, *(actor.labels_at for actor in actors))
        return Reason(text, max(queued_at, changed_at), is_satisfiable=False)
    reason = reason_among(broker, task, able, now)
    is_satisfiable = wants.are_stated(broker, shape, able) is not False
    return reason._replace(is_satisfiable=is_satisfiable)


def shortfall(task: Task, actor: Actor) -> tuple[int, int, str]:
    """Return how many of the things that *task* requires *actor* lacks, and has nothing like.

    With its name: of equals always the same are told of, in one order.
    """
    assert task.template
    desires, slots = task.template.shape.desires, task.call.slots
    lacking = [one.key for one in desires if one.required and not satisfies(actor.labels, one)]
    short = [kind for kind, amount in slots.items() if actor.slots.get(kind, 0) < amount]
    absent = sum(key not in actor.labels for key in lacking)
    absent += sum(kind not in actor.slots for kind in short)
    return len(lacking) + len(short), absent, actor.name


def reason_among(broker: "Broker", task: Task, able: list[Actor], now: float) -> Reason:
    """Sum up why none of those that satisfy *task* has it."""
    closed = [one for one in able if one.closed and (one.is_open or one.is_leaving)]
    alone = [
        one
        for one in able
        if one.is_alone and not (one.session is None or one.is_suspect or one in closed)
    ]
    away = [actor for actor in able if not (actor.is_open or actor in closed or actor in alone)]
    open_ones = [one for one in able if one.is_open and not one.closed]
    rejected = [one for one in open_ones if is_barred(task, one)]
    full = full_hosts(broker, task, [one for one in open_ones if one not in rejected])
    busy = len(open_ones) - len(rejected) - len(full)
    since = task.queued_at
    hindered = hindrances(broker, task, open_ones, now)
    busy -= hindered.total()
    if len(hindered) == 1 and hindered.total() == len(able):
        return Reason(next(iter(hindered)), since)
    texts = [f"busy ({busy} of {len(broker.actors)})"] if busy else []
    shown = hindered.most_common(ACTORS_SHOWN_MAX)
    texts += [f"{text} ({count} of {len(broker.actors)})" for text, count in shown]
    if full:
        texts.append(f"has no room ({'; '.join(dict.fromkeys(full))})")
    if alone:
        names = ", ".join(one.name for one in alone[:ACTORS_SHOWN_MAX])
        texts.append(f"kept for a task that must be alone ({names})")
    if closed:
        # One of each kind: they may differ in a number alone.
        kinds = {actor.closed.partition(":")[0]: actor.closed for actor in closed}
        why = ", ".join(sorted(kinds.values()))
        texts.append(f"takes no work ({why})")
        since = max(since, *(actor.closed_at for actor in closed))
    if away:
        shown_away = [f"{one.name}: {unheard(broker, one, now)}" for one in away[:ACTORS_SHOWN_MAX]]
        more = "; ..." if len(away) > len(shown_away) else ""
        texts.append(f"is out of reach ({'; '.join(shown_away)}{more})")
        since = max(since, *(actor.heard_at for actor in away))
    if rejected:
        texts.append(f"rejected it ({rejected[0].name})")
    if len(texts) == 1:
        only = texts[0]
        verb = "is " if busy or alone else ""
        return Reason(f"every actor that satisfies it {verb}{only}", since)
    return Reason(f"every actor that satisfies it is one of these: {'; '.join(texts)}", since)


def hindrances(broker: "Broker", task: Task, actors: list[Actor], now: float) -> Counter[str]:
    """Count what of its environment keeps *task* from those of *actors* that have a free slot."""
    found: Counter[str] = Counter()
    for one in actors if task.call.environment else ():
        if is_barred(task, one) or (task.call.limits and occupants.lacking_on(broker, task, one)):
            continue
        if one.credit.available > 0 and (text := why_not_inside(broker, task, one, now)):
            found[text] += 1
    return found


def why_not_inside(broker: "Broker", task: Task, actor: Actor, now: float) -> str:
    """Say why *task* may not be in its environment in *actor*, or an empty text."""
    assert task.template
    return why_cold(broker, task, actor, now) or short_of_place(task, actor)


def full_hosts(broker: "Broker", task: Task, actors: list[Actor]) -> list[str]:
    """Say which limits of their hosts keep which of *actors* from *task*."""
    if not task.call.limits:
        return []
    return [text for one in actors if (text := occupants.lacking_on(broker, task, one))]


def missing(
    broker: "Broker", task: Task, actor: Actor, everywhere: str, now: float
) -> tuple[str, float]:
    """Say why *actor* does not get *task* now, and since when it could not have had it.

    *everywhere* is what keeps the task from every actor alike.
    """
    assert task.template
    found = list(obstacles(broker, task, actor, now))
    if not found:
        text = why_not_inside(broker, task, actor, now)
        text = text or short_of(broker, task, task.template.shape, actor)
        found = [(text, free_since(task, actor))]
    texts = [text for text, _ in found if text] + [everywhere] * bool(everywhere)
    return ", and ".join(texts) or "has a free slot", found[0][1]


def kept_everywhere(broker: "Broker", task: Task) -> str:
    """Say what keeps *task* from every actor, however free that is, or an empty text."""
    if task.client.is_paused:
        return CLIENT_PAUSED
    return occupants.explain(broker, task)[0] if task.call.limits else ""


def free_since(task: Task, actor: Actor) -> float:
    """Return since when *task* would be there, had *actor* been free for it for a moment."""
    return max(task.queued_at, actor.labels_at, actor.closed_at)


def obstacles(
    broker: "Broker", task: Task, actor: Actor, now: float
) -> Iterator[tuple[str, float]]:
    """Yield what keeps *task* from *actor* however free that is, each with since when it does."""
    since = free_since(task, actor)
    if lacking := unmet(task, actor):
        yield lacking, actor.labels_at
    bound = bindings.actor_named(broker, task)
    if bound and bound != actor.name:
        yield f"its key is bound to {bound}", since
    home = task.template.shape.home if task.template else None
    if home is not None and home is not actor:
        yield f"its named actor is on {home.name}", since
    if text := unheard(broker, actor, now):
        yield text, actor.heard_at
    elif actor.is_alone:
        yield "is kept for, or runs, a task that must be alone", since
    if actor.closed:
        yield f"takes no work: {actor.closed}", actor.closed_at
    if is_barred(task, actor):
        yield "rejected it", since
    if task.call.limits and (full := occupants.lacking_on(broker, task, actor)):
        yield full, since


def unheard(broker: "Broker", actor: Actor, now: float) -> str:
    """Say that *actor* may be gone, or an empty text."""
    silent_s = now - actor.heard_at
    if actor.session is None:
        return f"not connected, silent for {silent_s:.1f} s"
    if not actor.is_suspect:
        return ""
    # One that is heard is suspect since it does not receive.
    is_deaf = silent_s < broker.settings.suspect_s
    return "suspect, receives nothing" if is_deaf else f"suspect, silent for {silent_s:.1f} s"


def why_cold(broker: "Broker", task: Task, actor: Actor, now: float) -> str:
    """Say why *task* may not enter its environment in *actor*, or an empty text."""
    assert task.template
    record = broker.environments.find(task.template.shape)
    if record is None or record.environment.id in actor.copies:
        return ""
    enter_at = replicas.enter_at(record, task, now)
    if enter_at <= now:
        return ""
    name = record.environment.name
    if enter_at == inf and not record.failures:
        most = record.environment.reuse.replicas_max
        moves_at = replicas.moves_at(record, task, now)
        soon = f"; one ends for it in {moves_at - now:.1f} s" if now < moves_at < inf else ""
        return f"environment {name} has its {most} replica{'s' * (most != 1)}{soon}"
    if enter_at == inf:
        return f"environment {name} is tried again elsewhere"
    if record.failures and record.failure is not None:
        return f"{record.failure.message}; it is tried again in {enter_at - now:.1f} s"
    return f"environment {name} is entered once more if it waits for {enter_at - now:.1f} s more"


def loading_at(task: Task, actor: Actor | None) -> str:
    """Say that the environment of *task* is being loaded in *actor*, or an empty text."""
    place = task.call.environment
    copy = actor.copies.get(place.id) if actor is not None and place is not None else None
    if copy is None or copy.is_warm:
        return ""
    return f"environment {copy.record.environment.name} is being loaded"


def entering_at(task: Task, actor: Actor | None) -> str:
    """Say that *actor*, which has *task*, loads its environment, or an empty text.

    Of copies for single calls that is what the actor said last.
    """
    place = task.call.environment
    if actor is None or place is None or not place.reuse.is_fresh:
        return loading_at(task, actor)
    if actor.environments.get(place.id) != "loading":
        return ""
    own = actor.count_inside()[place.id]
    which = f" for one of {own} calls" if own > 1 else ""
    return f"environment {place.name} is being loaded{which}"


def short_of_place(task: Task, actor: Actor) -> str:
    """Say what *actor* has too little of for the environment of *task*, or an empty text."""
    assert task.template
    credit, place = actor.credit, task.call.environment
    if place is None:
        return ""
    taken = task.template.costs.turns_taken
    if loading := loading_at(task, actor):
        return loading
    if not credit.has_resident(place.pool):
        # A named actor needs none.
        needs_room = place.named is None and (credit.available or credit.has_more)
        return f"no room for environment {place.name}" if needs_room and not credit.has_room else ""
    if credit.is_warm(place.pool, taken):
        return ""
    alone = ", in which it must be alone" if taken > 1 else ""
    return f"no turn free in environment {place.name}{alone}"


def short_of(broker: "Broker", task: Task, shape: "Shape", actor: Actor) -> str:
    """Say what of the credit of *actor* is not enough for *task*, or an empty text."""
    credit = actor.credit
    short = credit.lacks(shape.cost)
    if short and not (shape.cost.is_plain or shape.cost.is_sharing):
        lacking = [
            f"needs {say_slots(kind, amount)}, {free} free"
            for kind, amount in shape.cost.slots.items()
            if (free := credit.slots_available if kind == SLOT else credit.free_of(kind)) < amount
        ]
        return f"{', and '.join(lacking)} ({count_tasks(actor)})"
    if not credit.available and (shape.cost.is_plain or not credit.has_more):
        return f"no free slot ({count_tasks(actor)}{unreturned(broker, actor)})"
    reserved = broker.reservation
    is_bound = reserved is not None and reserved.binds(task, actor)
    if reserved is not None and is_bound and not credit.covers(shape.cost, reserved.shape.cost):
        return "kept free for an older task that needs more slots"
    if credit.covers(shape.cost) and (text := preference.passes(broker, task, actor)):
        return text
    if not credit.covers(shape.cost):
        return "no slot of its kind"
    return ""


def count_tasks(actor: Actor) -> str:
    """Say how many tasks *actor* has."""
    count = len(actor.assigned)
    return "1 task" if count == 1 else f"{count} tasks"


def hosts_without(broker: "Broker") -> str:
    """Name the hosts that are connected where no actor is, or return an empty text."""
    starting = starting_on(broker)
    hosts = starting or [host for host in broker.hosts.values() if host.session is not None]
    names = sorted(host.name for host in hosts)
    if not names:
        return ""
    shown = ", ".join(names[:ACTORS_SHOWN_MAX]) + (", ..." if len(names) > ACTORS_SHOWN_MAX else "")
    told = f"host {shown} has" if len(names) == 1 else f"hosts {shown} have"
    return f": {told} {'one that starts' if starting else 'none that runs, see the log there'}"


def starting_on(broker: "Broker") -> list[Host]:
    """Return the hosts that are connected and have started an actor that is not there yet."""
    return [
        host
        for host in broker.hosts.values()
        if host.session is not None and not host.attested.keys() <= broker.actors.keys()
    ]


def unreturned(broker: "Broker", actor: Actor) -> str:
    """Say how many slots of *actor* runs have that nobody wants any more, or an empty text.

    Those that it does not offer and no task of it has; not where one may be about to have them.
    """
    held = slots_held(broker, actor)[SLOT]
    others = actor.slots.get(SLOT, 0) - actor.credit.stated.free - held
    parts = broker.limits.waits.parts
    if others <= 0 or any(t.is_released or token in parts for token, t in actor.assigned.items()):
        return ""
    return f", and {others} slots of canceled or timed out runs that have not returned"


def slots_held(broker: "Broker", actor: Actor) -> dict[str, int]:
    """Return how many slots of each type the tasks of *actor* hold that have not given them back.

    More than there are, where tasks wait in the mailbox. Those that share a replica have one. Of a
    part that a run has again its actor tells with the next heartbeat.
    """
    held = dict.fromkeys(actor.slots, 0)
    sharing = set()
    waits = broker.limits.waits
    for token, task in actor.assigned.items():
        if task.template and task.template.costs.is_sharing:
            if not task.is_released:
                sharing.add(task.template.costs.place)
        elif not task.is_released:
            slots = (task.template.head.slots if task.template else {}) or {SLOT: 1}
            for kind, amount in waits.left(token, slots).items():
                held[kind] = held.get(kind, 0) + amount
    if sharing:
        held[SLOT] = held.get(SLOT, 0) + len(sharing)
    return held
