"""The progress display of a running study: a line for each stage that ends, and on a terminal a table of those that run."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from repro.api.terminal import duration, is_live
from repro.engine import artefacts, cost
from repro.engine.completion import Completion, completion
from repro.engine.dag import Dag
from repro.engine.job import Job
from repro.errors import printable

WIN_RATE = "eval/win_rate"
# Numbers of a running stage, those first that stay where the terminal has no room for all.
LIVE_METRICS = {
    "objective/score": "score",
    "objective/kl": "KL",
    "sft/loss": "loss",
    "rm/loss": "loss",
    "dpo/loss": "loss",
    "rm/train_accuracy": "accuracy",
    "dpo/train_accuracy": "accuracy",
    "objective/gold": "gold",
    "objective/length": "length",
    "objective/eos_rate": "EOS",
}

FINAL_METRICS = {
    "test/sampled_win_rate": "win rate",
    "test/win_rate": "near-greedy",
    "test/sampled_gold": "gold",
    "test/kl": "KL",
    "sft_test/sampled_win_rate": "win rate before PPO",
    "rm/validation_accuracy": "validation accuracy",
    "dpo/validation_accuracy": "validation accuracy",
    "sft/final_loss": "loss",
}
QUEUED = 3  # jobs of a cluster's queue that have a row each


@dataclass(frozen=True)
class Row:
    """A stage that runs, as it stood at `seen`; or one in a cluster's queue, with why it waits there."""

    job: Job
    done: Completion | None = None
    waits: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    seen: float = field(default_factory=time.time)

    @property
    def cells(self) -> list[str]:
        """Stage, seed, arm, how much of it is done, and how long it takes yet; the time runs on since it was seen."""
        name = [self.job.name, str(self.job.seed), self.job.arm]
        if not self.done:
            return [*name, "queued", self.waits]
        left = max(self.done.left - (time.time() - self.seen), 0.0)
        return [*name, f"{'' if self.done.counted else '~'}{self.done.share:.0%}", duration(left) if left else ""]

    def number(self, *names: str) -> str:
        """The first of these metrics that the stage has logged."""
        return next((f"{self.numbers[name]:.2f}" for name in names if name in self.numbers), "")


class Progress:
    """Prints one line for each stage that ends, and on a terminal a live table.

    The table is drawn by a thread from what `update` saw last, so that its times run on while the store is written.
    """

    def __init__(self, dag: Dag, workers: int, console: Console) -> None:
        self.dag, self.workers, self.console = dag, workers, console
        self.began, self.printed, self.trouble = time.time(), set(dag.done), ""
        self.expected: dict[str, float] = {}  # -> seconds of each job that is left
        self.rows: list[Row] = []
        self.left, self.seen = 0.0, self.began  # seconds until the end, as of then
        self.live = None
        if is_live(console):
            self.live = Live(get_renderable=self._shown, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self.live:
            self._look()
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def update(self, trouble: str = "") -> None:
        """Show what is new on the DAG; `trouble` says why the store cannot be written at the moment."""
        dag = self.dag
        ended = [key for key in dag.jobs if key in dag.done | dag.failed.keys() and key not in self.printed]
        for key in ended:
            self.printed.add(key)
            self.console.print(self._ended(dag.jobs[key]), highlight=False)
        if trouble and trouble != self.trouble:
            self.console.print(
                f"[yellow]MLflow store not written[/yellow], tried again: {escape(printable(trouble))}", highlight=False
            )
        self.trouble = trouble
        if self.live:
            self._look(bool(ended))

    def _ended(self, job: Job) -> str:
        if job.key in self.dag.failed:
            return f"[red]failed[/red]  {job.label}: {escape(printable(self.dag.failed[job.key]))}"
        folder = self.dag.cache / job.key
        seconds = artefacts.read_done(folder)["seconds"]
        numbers = artefacts.read_result(folder)["metrics"]
        line = f"[green]done[/green]    {job.label}  ({seconds:.0f} s)"
        shown = [f"{label} {numbers[name]:.3g}" for name, label in FINAL_METRICS.items() if name in numbers]
        while shown and self.live and Text.from_markup(f"{line}  {', '.join(shown)}").cell_len > self.console.width:
            shown.pop()
        return f"{line}  {', '.join(shown)}"

    def _look(self, again: bool = True) -> None:
        """See how each stage stands that runs, and how long all takes yet; what a stage takes is looked up `again`."""
        dag = self.dag
        rest = [job for key, job in dag.jobs.items() if key not in dag.done | dag.failed.keys()]
        if again:
            self.expected = dict(zip((job.key for job in rest), cost.each_seconds(rest, dag.cache)))
        running = [self._row(dag.jobs[key], began) for key, began in dag.running.items()]
        queued = [Row(dag.jobs[key], waits=why) for key, why in dag.queued.items() if key not in dag.running]
        lefts = [row.done.left for row in running if row.done]
        waiting = sum(self.expected[job.key] for job in rest if job.key not in dag.running)
        self.left = max([(waiting + sum(lefts)) / self.workers, *lefts])
        self.rows, self.seen = running + queued, time.time()

    def _row(self, job: Job, began: float) -> Row:
        lines = self.dag.journal(job.key)
        numbers = dict(lines[-1]["metrics"]) if lines else {}
        for line in lines:  # the last evaluation stands until the next
            numbers[WIN_RATE] = line["metrics"].get(WIN_RATE, numbers.get(WIN_RATE))
        done = completion(job, began, lines, self.expected[job.key], self.dag.cache)
        return Row(job, done, numbers={name: value for name, value in numbers.items() if value is not None})

    # ------------------------------------------------------------------------------------------ drawn by the thread

    def _shown(self) -> Group:
        """The table with as many numbers as the terminal has room for, and a line on all stages."""
        rows, room = self.rows, self.console.width
        unbounded = self.console.options.update(max_width=1_000)
        queued = [row for row in rows if not row.done]
        shown = [row for row in rows if row.done] + queued[:QUEUED]
        names = list(dict.fromkeys(LIVE_METRICS.values()))
        names = [name for name in names if any(row.number(*_metrics(name)) for row in shown)]
        table = _table(shown, names)
        while names and Measurement.get(self.console, unbounded, table).maximum > room:
            names.pop()
            table = _table(shown, names)
        return Group(table, *(Text(line, style="dim") for line in self._lines(rows, len(queued))))

    def _lines(self, rows: list[Row], queued: int) -> list[str]:
        now = time.time()
        spent, left = now - self.began, max(self.left - (now - self.seen), 0.0)
        waits = f", {queued} in the queue" if queued else ""
        ends = f", about {duration(left)} left" if left else ""
        lines = [f"{len(self.dag.done)} of {len(self.dag.jobs)} stages are done{waits}; {duration(spent)} so far{ends}"]
        if any(row.number(WIN_RATE) for row in rows):
            lines.append("win rate: of sampled summaries of validation posts against their references")
        return lines


def _metrics(label: str) -> list[str]:
    return [name for name, other in LIVE_METRICS.items() if other == label]


def _table(rows: list[Row], names: list[str]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    rated = ["win rate"] if any(row.number(WIN_RATE) for row in rows) else []
    for name in ("stage", "seed", "arm", "done", "left", *rated, *names):
        # Where all is too narrow, a long arm's name goes on in a second line, and nothing is cut off.
        table.add_column(
            name, justify="left" if name in ("stage", "arm") else "right", no_wrap=name != "arm", overflow="fold"
        )
    for row in rows:
        numbers = [row.number(WIN_RATE) for _ in rated] + [row.number(*_metrics(name)) for name in names]
        table.add_row(*(Text(printable(cell)) for cell in [*row.cells, *numbers]))
    return table
