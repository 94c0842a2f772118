"""`python -m actor`: run actors on this machine."""

from wire.loading import end_at_once
from wire.printing import run_to_end

if __name__ == "__main__":
    end_at_once()
    from actor.cli import main
    from actor.machine.platform import stand_in_for_closed

    stand_in_for_closed()
    run_to_end("actor", main)
