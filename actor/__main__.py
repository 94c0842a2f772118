"""`python -m actor`: run actors on this machine."""

import sys

from actor.cli import main

if __name__ == "__main__":
    sys.exit(main())
