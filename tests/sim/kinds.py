"""Calls that came last: a part of the seeds draws some, and the swarms of planted bugs name theirs.

Both in `Profile.kinds`, so whatever other seeds draw stays as it is.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sdk.calls.call import Code, Plan
from wire.parts import Call, Environment, Named, Reuse, Sticky

if TYPE_CHECKING:
    from tests.sim.clients import ClientProcess
    from tests.sim.profile import Profile

# So many a second may begin, and so many at once; what a broker is told of that.
RATE, RATE_MAXIMUM = 2.0, 2
RATED = f"r={RATE_MAXIMUM}:rate={RATE:g}/s"
# How long a call waits for a copy that there is.
PATIENCE_S = 0.8
# How many calls of one named actor may wait.
PENDING_MAX = 2
# How long what is kept for a client stays that nobody calls.
KEPT_S = 20.0
# Two that want one name; each is entered by one kind of call.
NAMESAKES = ("same0", "same1")
OWN, SHARED = "own", "shared"
KINDS = ("rated", "namesake", "bounded", "patient", OWN)


def make_plans(code: Code, blob: Code) -> list[tuple[str, Plan]]:
    """Return all of them, each with its kind."""
    made = [("rated", Plan(Call("rated", code.hash, limits={"r": 1}), [code]))]
    for number, identity in enumerate(NAMESAKES):
        named = Named("default", "same", f"Counter {number}", 0, -1, -1)
        made += calls("namesake", Environment(identity, "Counter", blob.hash, named=named), blob)
    named = Named("default", "bounded", "Counter", 0, -1, -1, PENDING_MAX)
    made += calls("bounded", Environment("bounded", "Counter", blob.hash, named=named), blob)
    place = Environment("patient", "Patient", blob.hash, {}, 1, Reuse(1, 3, 2.0, 1.0))
    call = Call("patient", b"", "predict", place, affinity_wait_s=PATIENCE_S)
    made.append(("patient", Plan(call, [blob])))
    # One copy, whose calls have keys that others have bound to an actor each.
    place = Environment("torn", "Torn", blob.hash, {}, 1, Reuse(1, 1, 2.0))
    for key, is_hard in (("soft", False), ("hard", True)):
        call = Call(f"torn-{key}", b"", "predict", place, sticky=Sticky(key, is_hard))
        made.append(("torn", Plan(call, [blob])))
    for identity in (OWN, SHARED):
        reuse = Reuse(1, 2, KEPT_S, is_of_client=True)
        place = Environment(identity, "Own", blob.hash, {}, 1, reuse)
        made.append((OWN, Plan(Call(identity, b"", "predict", place), [blob])))
    return made


def calls(kind: str, place: Environment, blob: Code) -> list[tuple[str, Plan]]:
    """Return the call that makes a named actor, and two chances of one that counts."""
    enters = Plan(Call(f"enter-{place.id}", environment=place), [blob])
    counts = Plan(Call(f"count-{place.id}", b"", "incr", place), [blob])
    return [(kind, enters), (kind, counts), (kind, counts)]


def choose(profile: "Profile", chance: Callable[[], float], kind: str) -> str:
    """Return of which kind the next call is, *kind* unless the seed has kinds of its own."""
    for name, share in profile.kinds.items():
        if chance() < share:
            return name
    return kind


def of(client: "ClientProcess", plan: Plan) -> Plan:
    """Return how *client* calls that: some environments are kept for itself alone."""
    place = plan.call.environment
    if place is None or place.id != OWN:
        return plan
    place = structs.replace(place, id=f"{OWN}-{client.incarnation:x}")
    return Plan(structs.replace(plan.call, environment=place), plan.codes)


def limits(profile: "Profile") -> tuple[str, ...]:
    """Return what a broker is told of limits beside those that every broker has."""
    return (RATED,) if "rated" in profile.kinds else ()


def is_kept_for_clients(environment: Any) -> bool:
    """Tell whether nobody but the clients of one process calls it."""
    return bool(environment.reuse.is_of_client)
