"""The console that verbs print to, how they write durations and lists of numbers, and what they say of a board's troubles."""

import sys

from rich.console import Console

console = Console(soft_wrap=not sys.stdout.isatty())


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def joined_numbers(values) -> str:
    """Numbers as they are typed after an option: `4 6 8`."""
    return " ".join(map(str, values))


def print_failures(board) -> None:
    """Says which jobs of a board failed, and why."""
    for label, why in board.broken.items():
        print(f"failed: {label}: {why}", file=sys.stderr)


def warn_of_corrupt_cache(board) -> None:
    """Says which cached stages are made again; on standard error, so that it is seen beside a live table too."""
    for key in board.corrupt:
        print(f"warning: the cached {board.jobs[key].label} is corrupt; it is made again", file=sys.stderr)
