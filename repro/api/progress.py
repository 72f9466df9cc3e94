"""The progress display of a running study: each worker's stage and its latest metrics, and the remaining time."""

import json
import time

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from repro.engine import cost
from repro.engine.dag import Dag
from repro.engine.job import Job
from repro.errors import printable
from repro.stages import stage

LIVE_METRICS = {
    "objective/score": "score",
    "objective/gold": "gold",
    "objective/kl": "KL",
    "objective/length": "length",
    "objective/eos_rate": "EOS",
    "sft/loss": "loss",
    "rm/loss": "loss",
    "rm/train_accuracy": "accuracy",
    "dpo/loss": "loss",
    "dpo/train_accuracy": "accuracy",
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


class Progress:
    """Prints one line for each stage that ends, and on a terminal a live table."""

    def __init__(self, dag: Dag, workers: int, console: Console) -> None:
        self.dag, self.workers, self.console = dag, workers, console
        self.began, self.printed, self.trouble = time.time(), set(dag.done), ""
        self.live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def update(self, trouble: str = "") -> None:
        """Show what is new on the DAG; `trouble` says why the store cannot be written at the moment."""
        dag = self.dag
        for key in [key for key in dag.jobs if key in dag.done | dag.failed.keys() and key not in self.printed]:
            self.printed.add(key)
            self.console.print(self._ended(dag.jobs[key]), highlight=False)
        if trouble and trouble != self.trouble:
            self.console.print(
                f"[yellow]MLflow store not written[/yellow], tried again: {escape(printable(trouble))}", highlight=False
            )
        self.trouble = trouble
        if self.live:
            self.live.update(Group(self._table(), Text(self._remaining(), style="dim")))

    def _ended(self, job: Job) -> str:
        if job.key in self.dag.failed:
            return f"[red]failed[/red]  {job.label}: {escape(printable(self.dag.failed[job.key]))}"
        folder = self.dag.cache / job.key
        seconds = json.loads((folder / stage.DONE).read_text())["seconds"]
        numbers = json.loads((folder / stage.RESULT).read_text())["metrics"]
        shown = ", ".join(f"{label} {numbers[name]:.3g}" for name, label in FINAL_METRICS.items() if name in numbers)
        return f"[green]done[/green]    {job.label}  ({seconds:.0f} s)  {shown}"

    def _table(self) -> Table:
        columns = list(dict.fromkeys(LIVE_METRICS.values()))
        table = Table("stage", "arm", "seed", "episodes", "/s", *columns, box=None, header_style="dim")
        for key, began in self.dag.running.items():
            job = self.dag.jobs[key]
            last = next(reversed(self.dag.journal(key)), {})
            numbers = {
                LIVE_METRICS[name]: value for name, value in last.get("metrics", {}).items() if name in LIVE_METRICS
            }
            rate = last.get("step", 0) / max(time.time() - began, 1e-9)
            table.add_row(
                job.stage,
                job.arm,
                str(job.seed),
                str(last.get("step", "")),
                f"{rate:.0f}" if last else "",
                *(f"{numbers[name]:.2f}" if name in numbers else "" for name in columns),
            )
        return table

    def _remaining(self) -> str:
        remaining = [job for key, job in self.dag.jobs.items() if key not in self.dag.done | self.dag.failed.keys()]
        seconds = cost.seconds(remaining, self.dag.cache) / self.workers
        elapsed = sum(time.time() - began for began in self.dag.running.values()) / self.workers
        return (
            f"{len(self.dag.done)}/{len(self.dag.jobs)} stages, {time.time() - self.began:.0f} s so far, "
            f"about {max(seconds - elapsed, 0):.0f} s left"
        )
