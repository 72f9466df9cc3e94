"""What `python -m repro` runs: the command line of `repro.cli.main`."""

import sys

from repro.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
