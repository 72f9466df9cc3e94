"""The command line, `python -m repro VERB ...`: every budget is a field of Scale, which --set changes."""

import gc
import os
import sys
import warnings
from collections.abc import Sequence

from repro.cli import (
    assets,
    atlas,
    calibrate,
    check,
    fault,
    gallery,
    interrupts,
    judge,
    plan,
    registry,
    report,
    run,
    store,
)
from repro.cli.parser import Parser
from repro.errors import UserError

# In the order of `--help`; each adds its verb's parser, whose `run` takes the arguments and returns the exit code.
VERBS = (
    registry.add_details,
    registry.add_docs,
    plan.add_plan,
    run.add_run,
    report.add_report,
    atlas.add_atlas,
    report.add_figures,
    gallery.add_gallery,
    report.add_inspect,
    calibrate.add_calibrate,
    assets.add_fetch,
    judge.add_judge,
    store.add_ui,
    store.add_import,
    check.add_check,
    assets.add_pretrain,
    run.add_stage,
)


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 if the machine failed, 2 for bad input, 70 for a fault in the code, 130 if ended."""
    gc.set_threshold(20_000)  # at the default, 700, collecting takes a tenth of the start-up
    _quiet()
    try:
        with interrupts.delivered():
            arguments = _parser().parse_args(words)
            return arguments.run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        return 130
    except Exception as error:
        return fault.tell_of(error, sys.argv[1:] if words is None else words)


def _parser() -> Parser:
    parser = Parser(prog="python -m repro", description="The N+ implementation details of RLHF with PPO, as toggles.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for add_verb in VERBS:
        add_verb(verbs)
    return parser


def _quiet() -> None:
    """Silence the libraries' warnings and MLflow's log of migrations."""
    warnings.filterwarnings("ignore")
    # Also in child processes, and in their resource tracker, which warns of each lock of an ended worker.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
