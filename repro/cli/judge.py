"""The verb `judge`: a language model compares a study's summaries with the references, once a person agrees to the cost."""

import argparse
import math
import sys

from rich.table import Table

from repro.api.folders import cache_folder, require_report_folder
from repro.api.terminal import console
from repro.cli.pages import build_and_publish
from repro.cli.parser import positive_integer, price
from repro.errors import UserError


def add_judge(verbs) -> None:
    """Its own options: what is asked of an endpoint costs money, and is of no study file."""
    verb = verbs.add_parser("judge", help="have a language model compare a study's summaries with the references")
    verb.add_argument("study", metavar="DETAIL")
    verb.add_argument("--scale", default="mini", help="mini (the default), pythia-1b, or a changed one's full name")
    verb.add_argument("--model", required=True, metavar="NAME", help="as its endpoint calls it")
    verb.add_argument("--base-url", default="", metavar="URL", help="another endpoint, as http://HOST:8000/v1")
    verb.add_argument("--key-env", default="", metavar="NAME", help="variable that holds the endpoint's key")
    verb.add_argument(
        "--posts", type=positive_integer, default=argparse.SUPPRESS, metavar="N", help="the first N alone"
    )
    verb.add_argument("--temperature", type=float, default=argparse.SUPPRESS, help="the endpoint's own")
    verb.add_argument("--max-tokens", type=positive_integer, default=512, metavar="N", help="of an answer (512)")
    verb.add_argument("--threads", type=positive_integer, default=8, metavar="N", help="questions at a time (8)")
    verb.add_argument("--price-in", type=price, default=argparse.SUPPRESS, metavar="X", help="of a million asked")
    verb.add_argument("--price-out", type=price, default=argparse.SUPPRESS, metavar="X", help="of a million answered")
    verb.add_argument("--yes", action="store_true", help="ask the judge without asking here first")
    verb.set_defaults(run=_judge)


def _judge(arguments: argparse.Namespace) -> int:
    """A language model's word on every run that was evaluated: told what it costs, asked, published, and on the page."""
    from reports.reading import studies as read
    from repro.stages import judge
    from repro.tracking.attach import publish_judgement
    from repro.tracking.store import store_uri, usable_store

    require_report_folder()
    sampling = {"max_completion_tokens": arguments.max_tokens}
    sampling |= {"temperature": arguments.temperature} if "temperature" in arguments else {}
    who = judge.judge(arguments.model, arguments.base_url, **sampling)
    with usable_store():
        study = read.read_study(arguments.study, arguments.scale, store_uri())
    tables = {place: table.head(getattr(arguments, "posts", len(table))) for place, table in study.samples.items()}
    if not tables:
        raise UserError(f"the study {study.detail}-{study.scale} has no summaries to judge: {' '.join(study.troubles)}")
    answers = judge.Answers(cache_folder() / "judge")
    failures = _ask_judge(arguments, who, judge.questions_of(who, tables), answers)
    run_ids = study.runs.set_index(["arm", "seed"])["run_id"]
    said = {place: judge.judgement(who, table, answers) for place, table in tables.items()}
    for place, judgement in said.items():
        publish_judgement(run_ids[place], judgement)
    console.print(_verdicts({place: judgement["metrics"] for place, judgement in said.items()}))
    build_and_publish(study.detail, study.scale)
    for reason in failures[-1:]:
        print(f"{len(failures)} questions have no answer; the same command asks again. {reason}", file=sys.stderr)
    return 1 if failures else 0


def _verdicts(metrics: dict[tuple[str, int], dict[str, float]]) -> Table:
    """What the judge said of each run, in numbers."""
    heads = {"win_rate": "win rate", "sft_win_rate": "before PPO", "tie_rate": "ties", "unparsable": "unparsable"}
    told = Table("arm", "seed", *heads.values(), box=None, header_style="dim")
    for (arm, seed), found in metrics.items():
        told.add_row(arm, str(seed), *(f"{found.get(f'judge/{name}', math.nan):.3f}" for name in heads))
    return told


def _ask_judge(arguments: argparse.Namespace, who, questions, answers) -> list[str]:
    """Ask what has no answer yet, once a person has agreed to what it costs; why questions failed."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from repro.stages import judge

    waiting = {key: messages for key, messages in questions.items() if key not in answers.known}
    console.print(
        f"{who.name} at {who.host}: {len(questions)} questions, every pair in both orders; "
        f"{len(questions) - len(waiting)} are answered already",
        highlight=False,
    )
    if not waiting:
        return []
    prices, key = _prices(arguments), judge.api_key(arguments.base_url, arguments.key_env)
    console.print(judge.cost(who, waiting, answers).words(*prices), highlight=False)
    _require_consent(arguments.yes, f"ask {who.host} {len(waiting)} questions")
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("answers", total=len(waiting))
        return judge.ask_all(who, key, waiting, answers, arguments.threads, lambda: progress.advance(task))


def _prices(arguments: argparse.Namespace) -> list[float]:
    """Of a million tokens, in and out; empty where none was given."""
    given = [getattr(arguments, name) for name in ("price_in", "price_out") if name in arguments]
    if len(given) == 1:
        raise UserError("one price alone gives no cost; give both --price-in and --price-out")
    return given


def _require_consent(given: bool, what: str) -> None:
    """UserError unless a person agrees, in advance or when asked now."""
    if given:
        return
    if not sys.stdin.isatty():
        raise UserError(f"nobody is there to agree to {what}; give --yes")
    if input(f"{what}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was asked; answer y to go on, or give --yes")
