"""How the jobs of studies are run: their data checked before, their progress shown, their runs tracked in MLflow."""

import sys

from repro.cli.terminal import console


def check_data(studies, board) -> None:
    """UserError where an arm's data or starting point would be refused, before anything of what is left is run."""
    from repro.engine import atlas, launch
    from repro.stages import data

    for recipe in atlas.recipes(studies) if not board.over else ():
        data.check(recipe, studies[0].scale)
    launch.check_starts(board)


def warn_of_missing_gpu(scale, engine, board) -> None:
    """Says that a scale made for GPUs has none here; it is run all the same: its budgets may be small."""
    from repro.engine import cost, launch

    if isinstance(engine, launch.Local) and not engine.devices and cost.for_gpu(scale) and not board.over:
        print(
            f"warning: scale {scale.name} is made for GPUs and this machine has none; `plan` says what it takes, and "
            "--engine slurm runs it on a cluster",
            file=sys.stderr,
        )


def execute(study, board, engine, command: str) -> None:
    """Run what is left to run of a study, shown and tracked."""
    if not board.over:
        engine.prepare()
    from repro.engine import launch
    from repro.tracking.track import Tracker

    launch.set_aside(board)
    run_jobs(board, engine, Tracker(study, board, command))


def run_jobs(board, engine, tracker) -> None:
    """Run the board's jobs; whoever tracks them is told as they go on, and closed at the end."""
    from repro.cli.progress import Progress
    from repro.engine.launch import Board

    with Progress(board, engine.workers, console) as progress:

        def tick(_: Board) -> None:
            tracker.update()
            progress.update(tracker.trouble)

        try:
            engine.run(board, tick)
        except BaseException:  # whatever ended it, jobs may go on elsewhere
            print(engine.parting(board), end="", file=sys.stderr)
            raise
        finally:
            tracker.close()
