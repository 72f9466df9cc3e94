"""The console that verbs print to, its lines for what takes long, and messages on failed jobs and a corrupt cache."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from repro.errors import few, printable

console = Console(soft_wrap=not sys.stdout.isatty())
SILENT_SECONDS = 3.0  # of what takes longer a pipe is told, too


def say(text: object, to: Console = console, whole: bool = False) -> None:
    """Print a text as it stands: what looks like markup is text, and what a terminal would obey is escaped.

    A `whole` one, such as a path, is not broken at the terminal's edge, so that it can be copied.
    """
    to.print(Text(printable(text)), highlight=False, soft_wrap=whole or None)


def say_study(study, to: Console = console) -> None:
    """Print a study's detail, scale and question, the line that opens what is said of it."""
    words = printable(f" at scale {study.scale.name}: {study.question}")
    to.print(Text.assemble((study.detail.name, "bold"), words), highlight=False)


def is_live(to: Console) -> bool:
    """Whether a console can take back what it shows: a terminal, and no pipe or file."""
    return to.is_terminal and not to.is_dumb_terminal


@contextmanager
def phase(doing: str, to: Console = console) -> Iterator[None]:
    """What is being done, shown with its seconds while the block runs; a pipe gets a line of it where it takes long.

    The spinner turns in a thread of its own, so that a terminal shows life whatever a library does meanwhile.
    """
    if is_live(to):
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = SpinnerColumn(), TextColumn("{task.description}", style="dim", markup=False), TimeElapsedColumn()
        with Progress(*columns, console=to, transient=True, refresh_per_second=4) as shown:
            shown.add_task(doing)
            yield
        return
    told = threading.Timer(SILENT_SECONDS, say, (f"{doing} ...", to))
    told.daemon = True
    told.start()
    try:
        yield
    finally:
        told.cancel()


def complain(text: object) -> None:
    """Print a text on standard error, escaped as by `say`."""
    print(printable(text), file=sys.stderr)


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def joined_numbers(values) -> str:
    """Numbers as they are typed after an option, `4 6 8`."""
    return " ".join(map(str, values))


def beside_arms(study) -> str:
    """What is run beside a study's arms, as a list of them ends; nothing where nothing is."""
    return " and the ceiling" if study.ceiling else ""


def print_failures(dag) -> None:
    """Print which jobs of a DAG failed, and why."""
    for label, why in dag.broken.items():
        complain(f"failed: {label}: {why}")


def warn_of_corrupt_cache(dag) -> None:
    """Print which cached stages are made again; on standard error, so that it shows beside a live table too."""
    for key in dag.corrupt:
        complain(f"warning: the cached {dag.jobs[key].label} is corrupt; it is made again")


def tell_of_outdated_code(dag) -> None:
    """Print which cached stages were made by other code than the one that is here, and whether they are used or made again."""
    from repro.engine.outdated import UNRECORDED

    again = [key for key in dag.outdated if key not in dag.done]
    used = [key for key in dag.outdated if key in dag.done]
    if again:
        print(f"{_stages_of(dag, again)} made again: the code has changed since they were made", file=sys.stderr)
    changes = list(dict.fromkeys(change for key in used for change in dag.outdated[key]))
    named = [change for change in changes if change != UNRECORDED]
    reasons = [f"by code that has changed since ({few(named)})"] if named else []
    reasons += ["by an earlier version, which did not record its code"] if UNRECORDED in changes else []
    if used:
        why = " or ".join(reasons)
        print(
            f"warning: {_stages_of(dag, used)} used as they were made, {why}; to make them again: --fresh (FRESH=1)",
            file=sys.stderr,
        )


def _stages_of(dag, keys) -> str:
    """So many stages, and which: `12 cached stages (rm, ppo) are`."""
    names = ", ".join(dict.fromkeys(dag.jobs[key].stage for key in keys))
    return f"{len(keys)} cached stage{'s' * (len(keys) > 1)} ({names}) {'are' if len(keys) > 1 else 'is'}"
