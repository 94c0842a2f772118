"""`python -m actor`: run actors on this machine."""

import sys

from actor.cli import main
from actor.platform import stand_in_for_closed

if __name__ == "__main__":
    stand_in_for_closed()
    sys.exit(main())
