"""`python -m broker`."""

import sys

from wire.loading import end_at_once

if __name__ == "__main__":
    end_at_once()
    from broker.cli import main

    sys.exit(main())
