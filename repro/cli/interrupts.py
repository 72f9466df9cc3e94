"""Ctrl-C and SIGTERM end a command, whatever it does at that moment."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_SECONDS = 0.05


@contextmanager
def delivered() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does, and none of the two gets lost.

    Python drops an exception that is raised while a destructor or a callback of C code runs, prints its traceback, and
    goes on (`sys.unraisablehook`). An interrupt is raised again a moment later, by an alarm, and nothing is printed.
    """
    report = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        else:
            report(unraisable)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = report


def end_at_once() -> None:
    """From here on Ctrl-C and SIGTERM end the process without a word: nothing is left to do but to go."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
