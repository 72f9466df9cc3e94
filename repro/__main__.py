"""What `python -m repro` runs: the command line of `repro.cli.main`."""

import gc
import sys

from repro.cli.interrupts import end_at_once
from repro.cli.main import main

if __name__ == "__main__":
    code = main()
    end_at_once()
    gc.freeze()  # else the interpreter searches all that is left for circles, seconds after the last line
    sys.exit(code)
