"""What a person watches while a study runs: each worker's stage and its latest numbers, and the time that is left."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from repro import cost, stage
from repro.launch import Board, Job

WATCHED = {"objective/score": "score", "objective/gold": "gold", "objective/kl": "KL", "objective/length": "length",
           "objective/eos_rate": "EOS", "sft/loss": "loss", "rm/loss": "loss", "rm/train_accuracy": "accuracy"}


class Progress:
    """On a terminal a live table; elsewhere one line for each stage that ends."""

    def __init__(self, board: Board, workers: int, console: Console) -> None:
        self.board, self.workers, self.console = board, workers, console
        self.began, self.told = time.time(), set(board.done)
        self.live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def update(self) -> None:
        board = self.board
        for key in [*board.done, *board.failed]:
            if key not in self.told:
                self.told.add(key)
                self.console.print(self._ended(board.jobs[key]), highlight=False)
        if self.live:
            self.live.update(Group(self._table(), Text(self._left(), style="dim")))

    def _ended(self, job: Job) -> str:
        if job.key in self.board.failed:
            return f"[red]failed[/red]  {job.label}: {self.board.failed[job.key]}"
        folder = self.board.cache / job.key
        seconds = json.loads((folder / stage.DONE).read_text())["seconds"]
        numbers = json.loads((folder / stage.RESULT).read_text())["metrics"]
        shown = {"test/win_rate": "win rate", "test/gold": "gold", "test/kl": "KL", "sft_test/win_rate": "win rate before PPO",
                 "rm/validation_accuracy": "validation accuracy", "sft/final_loss": "loss"}
        told = ", ".join(f"{label} {numbers[name]:.3g}" for name, label in shown.items() if name in numbers)
        return f"[green]done[/green]    {job.label}  ({seconds:.0f} s)  {told}"

    def _table(self) -> Table:
        table = Table("stage", "arm", "seed", "episodes", "/s", *dict.fromkeys(WATCHED.values()), box=None, header_style="dim")
        for key, began in self.board.running.items():
            job = self.board.jobs[key]
            last = _last_line(stage.partial_folder(self.board.cache / key))
            numbers = {WATCHED[name]: value for name, value in last.get("metrics", {}).items() if name in WATCHED}
            rate = last.get("step", 0) / max(time.time() - began, 1e-9)
            table.add_row(job.stage, job.arm, str(job.seed), str(last.get("step", "")), f"{rate:.0f}" if last else "",
                          *(f"{numbers[name]:.2f}" if name in numbers else "" for name in dict.fromkeys(WATCHED.values())))
        return table

    def _left(self) -> str:
        waiting = [job for key, job in self.board.jobs.items() if key not in self.board.done | self.board.failed.keys()]
        seconds = cost.seconds(waiting, self.board.cache) / self.workers
        elapsed = sum(time.time() - began for began in self.board.running.values()) / self.workers
        return (f"{len(self.board.done)}/{len(self.board.jobs)} stages, {time.time() - self.began:.0f} s so far, "
                f"about {max(seconds - elapsed, 0):.0f} s left")


def _last_line(folder: Path) -> Mapping:
    lines = stage.read_journal(folder)
    return lines[-1] if lines else {}
