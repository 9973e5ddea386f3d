"""`python -m steersman.client.cli`: the same as `steersman`."""

import sys

from steersman.client.cli import main

if __name__ == "__main__":
    sys.exit(main())
