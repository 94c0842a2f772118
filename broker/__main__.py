"""`python -m broker`."""

from wire.loading import end_at_once
from wire.printing import run_to_end

if __name__ == "__main__":
    end_at_once()
    from broker.cli import main

    run_to_end("broker", main)
