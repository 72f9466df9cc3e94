"""Runs the jobs of studies: checks their data first, shows their progress, and tracks their runs in MLflow."""

import sys

from repro.cli.terminal import console


def check_data(studies, board) -> None:
    """UserError where a stage would refuse an arm's data or starting weights; checked before any job is run."""
    from repro.engine import atlas, launch
    from repro.stages import data

    for recipe in atlas.recipes(studies) if not board.over else ():
        data.check(recipe, studies[0].scale)
    launch.check_starts(board)


def warn_of_missing_gpu(scale, engine, board) -> None:
    """Print a warning where a scale for GPUs runs on a machine without one; it is run, since its budget may be small."""
    from repro.engine import cost, launch

    if isinstance(engine, launch.Local) and not engine.devices and cost.for_gpu(scale) and not board.over:
        print(
            f"warning: scale {scale.name} is made for GPUs, and this machine has none; `plan` estimates the time, and "
            "--engine slurm runs it on a cluster",
            file=sys.stderr,
        )


def execute(study, board, engine, command: str) -> None:
    """Run the remaining jobs of a study, with progress and tracking."""
    if not board.over:
        engine.prepare()
    from repro.tracking.track import Tracker

    run_jobs(board, engine, Tracker(study, board, command))


def run_jobs(board, engine, tracker) -> None:
    """Run the board's jobs; the tracker is updated while they run, and closed at the end."""
    from repro.cli.progress import Progress
    from repro.engine.launch import Board

    with Progress(board, engine.workers, console) as progress:

        def tick(_: Board) -> None:
            tracker.update()
            progress.update(tracker.trouble)

        try:
            engine.run(board, tick)
        except BaseException:  # whatever ended it, jobs on a cluster continue
            print(engine.parting(board), end="", file=sys.stderr)
            raise
        finally:
            tracker.close()
