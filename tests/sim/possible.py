"""Which event can meet which state of four machines, what seeds must show, and what cannot be.

The machines are an assignment in its actor, a call in its client, an actor in the care of its host,
a named actor with the broker.
"""

from itertools import product

from tests.sim.machines import ASSIGNMENT_STATES, CALL_STATES, NAMED_STATES, WARD_STATES

COMES_ONCE = "numbers only grow, and a frame that comes again is dropped by its session"
NOT_STARTED = "what has not started says nothing"
OVER = "a run that has returned says nothing"
NOT_ENTERING = "it enters no environment"
NO_OUTCOME = "there is no outcome of it yet"
HAS_NOTHING = "it has nothing left to give back"
HAS_ALL = "it gave nothing back"
ASKS_ALREADY = "whoever asks for its slots waits for the answer"
NOT_LISTED = "nothing of it is here, so no session begins with it"
IMPOSSIBLE = {
    "assignment": {
        **{(state, "ASSIGN"): COMES_ONCE for state in ASSIGNMENT_STATES if state != "unknown"},
        ("unknown", "its end"): OVER,
        ("waiting", "its end"): NOT_STARTED,
        ("entering", "its end"): NOT_STARTED,
        ("kept", "its end"): OVER,
        ("unknown", "release"): OVER,
        ("waiting", "release"): NOT_STARTED,
        ("entering", "release"): NOT_STARTED,
        ("released", "release"): HAS_NOTHING,
        ("asking", "release"): HAS_NOTHING,
        ("kept", "release"): OVER,
        ("unknown", "reacquire"): OVER,
        ("waiting", "reacquire"): NOT_STARTED,
        ("entering", "reacquire"): NOT_STARTED,
        ("asking", "reacquire"): ASKS_ALREADY,
        ("kept", "reacquire"): OVER,
        ("unknown", "entered"): NOT_ENTERING,
        ("waiting", "entered"): NOT_ENTERING,
        ("released", "entered"): NOT_ENTERING,
        ("asking", "entered"): NOT_ENTERING,
        ("kept", "entered"): NOT_ENTERING,
        ("unknown", "not entered"): NOT_ENTERING,
        ("waiting", "not entered"): NOT_ENTERING,
        ("running", "not entered"): "a run that enters its environment again has begun: it fails",
        ("released", "not entered"): NOT_ENTERING,
        ("asking", "not entered"): NOT_ENTERING,
        ("kept", "not entered"): NOT_ENTERING,
        ("waiting", "OUTCOME-ACK"): NO_OUTCOME,
        ("entering", "OUTCOME-ACK"): NO_OUTCOME,
        ("running", "OUTCOME-ACK"): NO_OUTCOME,
        ("released", "OUTCOME-ACK"): NO_OUTCOME,
        ("asking", "OUTCOME-ACK"): NO_OUTCOME,
        ("unknown", "a new session"): NOT_LISTED,
    },
    "call": {
        ("unknown", "WELCOME that has it"): NOT_LISTED,
        ("unknown", "WELCOME without it"): NOT_LISTED,
        ("unknown", "no connection"): NOT_LISTED,
        ("here", "RESULT"): "a broker that does not have it has no outcome of it",
        ("here", "REQUEUED"): "a broker that does not have it queues nothing",
        ("here", "ACCEPTED"): "a broker that does not have it accepts nothing",
        ("here", "WELCOME that has it"): "what never left nobody has",
    },
    "ward": {
        **{
            (state, event): "there is no process"
            for state in ("due", "spare", "gone")
            for event in (
                "an end",
                "an end by order",
                "an end as one too many",
                "a start that hangs",
                "KILL",
            )
        },
        ("running", "a process"): "it has one",
        ("spare", "a process"): "none is started before SCALE asks for it",
        ("gone", "a process"): "none is started any more",
        ("spare", "no process"): "none was to be started",
        ("gone", "no process"): "none was to be started",
    },
    "named": {
        ("unknown", "an assignment"): "a call to nobody ends, or is held",
        ("unknown", "the end of its process"): "nobody has one",
        ("unknown", "an end for good"): "it has ended, or never was",
        ("unknown", "a failure to enter"): "the call that was to enter it has ended with it",
        ("new", "a failure to enter"): "nobody was told to enter it",
        ("here", "a failure to enter"): "it is handed back first, and that generation over",
        ("new", "the end of its process"): "it has none yet",
        ("new", "RESIDES"): "no process has what no broker let anybody enter",
        ("lost", "the end of its process"): "that has ended, and it has no other yet",
    },
}
STATES = {
    "assignment": ASSIGNMENT_STATES,
    "call": CALL_STATES,
    "ward": WARD_STATES,
    "named": NAMED_STATES,
}
EVENTS = {
    "assignment": (
        "ASSIGN",
        "STOP",
        "RECALL",
        "OUTCOME-ACK",
        "its end",
        "release",
        "reacquire",
        "entered",
        "not entered",
        "a new session",
    ),
    "call": (
        "RESULT",
        "REQUEUED",
        "ACCEPTED",
        "cancel",
        "an end of its own",
        "WELCOME that has it",
        "WELCOME without it",
        "no connection",
    ),
    "ward": (
        "a process",
        "no process",
        "an end",
        "an end by order",
        "an end as one too many",
        "a start that hangs",
        "KILL",
        "SCALE",
        "drain",
    ),
    "named": (
        "a call",
        "an assignment",
        "a failure to enter",
        "the end of its process",
        "an end for good",
        "RESIDES",
    ),
}
# What the fixed seeds must show.
SEEN = {
    "assignment": {
        ("unknown", "ASSIGN"),
        ("waiting", "RECALL"),
        ("entering", "entered"),
        ("entering", "not entered"),
        ("running", "STOP"),
        ("running", "its end"),
        ("running", "release"),
        ("running", "a new session"),
        ("released", "its end"),
        ("released", "reacquire"),
        ("asking", "its end"),
        ("stopped", "its end"),
        ("kept", "OUTCOME-ACK"),
        ("kept", "a new session"),
    },
    "call": {
        ("unknown", "ACCEPTED"),
        ("here", "WELCOME without it"),
        ("here", "an end of its own"),
        ("here", "cancel"),
        ("here", "no connection"),
        ("there", "ACCEPTED"),
        ("there", "REQUEUED"),
        ("there", "RESULT"),
        ("there", "WELCOME that has it"),
        ("there", "WELCOME without it"),
        ("there", "cancel"),
        ("there", "no connection"),
    },
    "ward": {
        ("due", "a process"),
        ("running", "SCALE"),
        ("running", "an end"),
        ("running", "an end as one too many"),
        ("running", "an end by order"),
        ("running", "drain"),
        ("spare", "SCALE"),
        ("spare", "drain"),
    },
    "named": {
        ("unknown", "a call"),
        ("new", "a call"),
        ("new", "an assignment"),
        ("here", "a call"),
        ("here", "an assignment"),
        ("here", "the end of its process"),
        ("lost", "an assignment"),
    },
}
POSSIBLE = [
    (machine, str(state), event)
    for machine, states in STATES.items()
    for state, event in product(states, EVENTS[machine])
    if (str(state), event) not in IMPOSSIBLE[machine]
]
