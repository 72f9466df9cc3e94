"""The console that verbs print to, formats of durations and numbers, and messages on failed jobs and a corrupt cache."""

import sys

from rich.console import Console

console = Console(soft_wrap=not sys.stdout.isatty())


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def joined_numbers(values) -> str:
    """Numbers as they are typed after an option, `4 6 8`."""
    return " ".join(map(str, values))


def print_failures(board) -> None:
    """Print which jobs of a board failed, and why."""
    for label, why in board.broken.items():
        print(f"failed: {label}: {why}", file=sys.stderr)


def warn_of_corrupt_cache(board) -> None:
    """Print which cached stages are made again; on standard error, so that it shows beside a live table too."""
    for key in board.corrupt:
        print(f"warning: the cached {board.jobs[key].label} is corrupt; it is made again", file=sys.stderr)
