"""The verb `judge`: a language model compares a study's summaries with the references, after consent to the cost."""

import argparse
import math
import sys

from rich.table import Table
from rich.text import Text

from repro.api.folders import cache_folder, require_report_folder
from repro.api.terminal import complain, console, say
from repro.cli.pages import build_and_publish
from repro.cli.parser import positive_integer, price, temperature
from repro.errors import UserError, printable


def add_judge(verbs) -> None:
    """The verb and its options, which no study file declares: requests to an endpoint cost money."""
    verb = verbs.add_parser("judge", help="have a language model compare a study's summaries with the references")
    verb.add_argument("study", metavar="DETAIL")
    verb.add_argument(
        "--scale", default="", help="the full name of a scale, such as pythia-1b (default: the study's own)"
    )
    verb.add_argument("--model", required=True, metavar="NAME", help="the model's name at its endpoint")
    verb.add_argument("--base-url", default="", metavar="URL", help="another endpoint, such as http://HOST:8000/v1")
    verb.add_argument("--key-env", default="", metavar="NAME", help="environment variable with the endpoint's key")
    verb.add_argument(
        "--posts", type=positive_integer, default=argparse.SUPPRESS, metavar="N", help="judge only the first N posts"
    )
    verb.add_argument(
        "--temperature",
        type=temperature,
        default=argparse.SUPPRESS,
        help="sampling temperature (default: the endpoint's)",
    )
    verb.add_argument("--max-tokens", type=positive_integer, default=512, metavar="N", help="limit of an answer (512)")
    verb.add_argument("--threads", type=positive_integer, default=8, metavar="N", help="concurrent requests (8)")
    verb.add_argument(
        "--price-in", type=price, default=argparse.SUPPRESS, metavar="X", help="price of a million prompt tokens"
    )
    verb.add_argument(
        "--price-out", type=price, default=argparse.SUPPRESS, metavar="X", help="price of a million completion tokens"
    )
    verb.add_argument("--yes", action="store_true", help="send the requests without asking for consent")
    verb.set_defaults(run=_judge)


def _judge(arguments: argparse.Namespace) -> int:
    """Judge every evaluated run: print the cost, ask for consent, send the questions, publish the answers, build the page."""
    from repro.reports.reading import studies as read
    from repro.stages import judge
    from repro.study import ablation
    from repro.tracking.attach import publish_judgement
    from repro.tracking.store import store_uri, usable_store

    sampling = {"max_completion_tokens": arguments.max_tokens}
    sampling |= {"temperature": arguments.temperature} if "temperature" in arguments else {}
    who = judge.judge(arguments.model, arguments.base_url, **sampling)
    _prices(arguments)  # told before the store is read
    require_report_folder()
    with usable_store():
        study = read.read_study(*ablation.recorded(arguments.study, arguments.scale), store_uri())
    tables = {place: table.head(getattr(arguments, "posts", len(table))) for place, table in study.samples.items()}
    if not tables:
        raise UserError(
            f"the study {study.detail}-{study.scale} has no summaries to judge: {' '.join(study.troubles[:1])}"
        )
    answers = judge.Answers(cache_folder() / judge.FOLDER)
    failures = _ask_judge(arguments, who, judge.questions_of(who, tables), answers)
    run_ids = study.runs.set_index(["arm", "seed"])["run_id"]
    judgements = {place: judge.judgement(who, table, answers) for place, table in tables.items()}
    for place, judgement in judgements.items():
        publish_judgement(run_ids[place], judgement)
    console.print(_verdicts({place: judgement["metrics"] for place, judgement in judgements.items()}))
    build_and_publish(study.detail, study.scale)
    for reason in failures[-1:]:
        complain(f"{len(failures)} questions have no answer; the same command asks them again. {reason}")
    return 1 if failures else 0


def _verdicts(metrics: dict[tuple[str, int], dict[str, float]]) -> Table:
    """The judge's metrics of each run, as a table."""
    heads = {"win_rate": "win rate", "sft_win_rate": "before PPO", "tie_rate": "ties", "unparsable": "unparsable"}
    table = Table("arm", "seed", *heads.values(), box=None, header_style="dim")
    for (arm, seed), found in metrics.items():
        table.add_row(
            Text(printable(arm)), str(seed), *(f"{found.get(f'judge/{name}', math.nan):.3f}" for name in heads)
        )
    return table


def _ask_judge(arguments: argparse.Namespace, who, questions, answers) -> list[str]:
    """Ask the questions without an answer, after consent to the cost; returns the errors of those that failed."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from repro.stages import judge

    waiting = {key: messages for key, messages in questions.items() if key not in answers.known}
    say(
        f"{who.name} at {who.host}: {len(questions)} questions, every pair in both orders; "
        f"{len(questions) - len(waiting)} are already answered"
    )
    if not waiting:
        return []
    prices, key = _prices(arguments), judge.api_key(arguments.base_url, arguments.key_env)
    say(judge.cost(who, waiting, answers).words(*prices))
    _require_consent(arguments.yes, f"ask {who.host} {len(waiting)} questions")
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("answers", total=len(waiting))
        return judge.ask_all(who, key, waiting, answers, arguments.threads, lambda: progress.advance(task))


def _prices(arguments: argparse.Namespace) -> list[float]:
    """Prices of a million prompt and completion tokens; empty where none was given."""
    given = [getattr(arguments, name) for name in ("price_in", "price_out") if name in arguments]
    if len(given) == 1:
        raise UserError("the cost needs both prices; give --price-in and --price-out")
    return given


def _require_consent(given: bool, what: str) -> None:
    """UserError unless a person has agreed with --yes or agrees when asked."""
    if given:
        return
    if not sys.stdin.isatty():
        raise UserError(f"there is no terminal to ask for consent to {what}; give --yes to agree")
    if input(f"{what}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("no question was sent; answer y to go on, or give --yes")
