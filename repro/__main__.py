"""The command line: `python -m repro VERB ...`. Few verbs; every budget is a field of Scale, changed with --set."""

import argparse
import gc
import json
import logging
import math
import os
import shlex
import signal
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from repro.errors import UserError

console = Console(soft_wrap=not sys.stdout.isatty())


class Parser(argparse.ArgumentParser):
    """Argument errors in one line, as all other errors are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `python -m repro --help`")


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 where a stage failed, 2 for bad input, 130 for an interrupt."""
    gc.set_threshold(20_000)  # imports make what stays: looking through it every 700 objects takes a tenth of the start
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _quiet()
    try:
        arguments = _parser().parse_args(words)
        return arguments.run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads, as `head` does, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> Parser:
    parser = Parser(prog="python -m repro", description="The N+ implementation details of RLHF with PPO, as toggles.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser("details", help="the registry: every detail and its variants")
    verb.add_argument("name", nargs="?", default="", metavar="NAME", help="all about one detail or check")
    verb.add_argument("--json", action="store_true", help="as JSON")
    verb.set_defaults(run=_details)
    verb = verbs.add_parser("docs", help="write docs/details.md from the registry")
    verb.add_argument("--check", action="store_true", help="write nothing; exit code 1 if it is stale")
    verb.set_defaults(run=_docs)
    for name, run, text in (
        ("plan", _plan, "what a study would run, what is cached, and how long it will take"),
        ("run", _run, "run a study to its verdict"),
        ("report", _report, "build a study's page, figures and verdict from the MLflow store"),
    ):
        verb = verbs.add_parser(name, help=text)
        _add_study(verb)
        if name == "run":
            _add_engine(verb)
        verb.set_defaults(run=run)
    verb = verbs.add_parser("atlas", help="run the study of every detail, cheapest first, and build the page over all")
    verb.add_argument("details", nargs="*", metavar="DETAIL", help="only these (all of them)")
    verb.add_argument("--scale", default="mini", help="mini (the default), smoke, local, or pythia-160m to pythia-6.9b")
    verb.add_argument("--seeds", nargs="+", default=[], metavar="N", help="training seeds, shared by all arms")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the scale")
    verb.add_argument("--plan", action="store_true", help="say what would run and how long it takes, and stop")
    verb.add_argument("--page", action="store_true", help="build the page from the MLflow store, and run nothing")
    _add_engine(verb)
    verb.set_defaults(run=_atlas)
    verbs.add_parser("figures", help="build the report of every study in the store").set_defaults(run=_figures)
    verb = verbs.add_parser("inspect", help="a training episode token by token; without --episode, which were kept")
    verb.add_argument("which", metavar="RUN", help="an MLflow run id or its beginning, or DETAIL/ARM/SEED")
    verb.add_argument("--episode", type=int, default=argparse.SUPPRESS, metavar="N", help="its number in training")
    verb.set_defaults(run=_inspect)
    verb = verbs.add_parser("calibrate", help="try the statistics on runs that differ in nothing but luck")
    verb.add_argument("--seeds", nargs="+", default=[], metavar="N", help="training seeds (1 to 100)")
    verb.set_defaults(run=_calibrate)
    _add_fetch(verbs)
    _add_judge(verbs)
    verb = verbs.add_parser("ui", help="MLflow's own pages, opened on a study, until Ctrl-C")
    verb.add_argument("study", nargs="?", default="", metavar="DETAIL", help="the last started one by default")
    verb.add_argument("--scale", default="mini", help="mini (the default), pythia-1b, or a changed one's full name")
    verb.add_argument("--port", type=int, default=5000)
    verb.set_defaults(run=_ui)
    verb = verbs.add_parser("import", help="bring the studies of another MLflow store; twice without duplicates")
    verb.add_argument("store", metavar="STORE", help="an mlflow.db, the folder of one, or a server's address")
    verb.set_defaults(run=_import)
    verb = verbs.add_parser("pretrain", help="make the embedded base model and tokenizer again")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--steps", type=_at_least_one, default=10_000, help="of all its phases together (10000)")
    verb.set_defaults(run=_pretrain)
    verb = verbs.add_parser("stage", help="internal: one stage of a study, from a file that its launcher wrote")
    verb.add_argument("file", type=Path, metavar="FILE")
    verb.set_defaults(run=_stage)
    return parser


def _add_study(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("study", metavar="DETAIL", help="a detail, or a file of ablations/ without .toml")
    verb.add_argument("--scale", default="", help="mini (the default), smoke, local, or pythia-160m to pythia-6.9b")
    verb.add_argument("--seeds", nargs="+", default=[], metavar="N", help="training seeds, shared by all arms")
    verb.add_argument("--until", default="", metavar="WORD", help="decided: more seeds, look by look, until all is")
    verb.add_argument("--looks", nargs="+", default=[], metavar="N", help="seeds at each look (4 6 8 12)")
    verb.add_argument("--arms", nargs="+", default=[], metavar="LABEL", help="variants to run beside the reference")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the scale")
    verb.add_argument("--with", nargs="+", default=[], metavar="DETAIL=LABEL", help="choices that all arms make")


def _add_engine(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--engine", default="local", metavar="WHERE", help="local (this machine, the default) or slurm")
    verb.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="what is asked of SLURM for each job")


def _engine(arguments: argparse.Namespace, studies):
    """Where the jobs of the studies run."""
    from repro.detail import nearest
    from repro.engine import launch, slurm

    asked = pairs_of("--slurm", arguments.slurm, slurm.FORM)
    if arguments.engine == "slurm":
        return slurm.engine(studies[0].scale, asked, sum(len(study.arms) * len(study.seeds) for study in studies))
    if arguments.engine != "local":
        raise UserError(f"there is no engine {arguments.engine!r}; {nearest(arguments.engine, ('local', 'slurm'))}")
    if asked:
        raise UserError("--slurm is for --engine slurm; leave it out, or add that")
    return launch.local(studies[0].scale)


def _stage(arguments: argparse.Namespace) -> int:
    from repro.engine import job

    ending = job.perform(arguments.file)
    if ending.code:
        print(f"{'error: ' * (ending.code == job.WRONG)}{ending.why}", file=sys.stderr)
    return ending.code


def _add_fetch(verbs) -> None:
    verb = verbs.add_parser("fetch", help="bring what a scale needs from the hub, for a machine that cannot reach it")
    verb.add_argument("scale", metavar="SCALE", help="pythia-160m to pythia-6.9b, or another whose fields name the hub")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the scale")
    verb.add_argument("--released", action="store_true", help="the checkpoints that the paper's authors published too")
    verb.add_argument("--to", type=Path, default=argparse.SUPPRESS, metavar="FOLDER", help="as plain files there too")
    rows = {"type": _at_least_one, "nargs": "?", "const": 1_000, "metavar": "ROWS"}
    verb.add_argument("--check", default=argparse.SUPPRESS, help="compare our tokenisation with the authors'", **rows)
    verb.set_defaults(run=_fetch)


def _add_judge(verbs) -> None:
    """Its own options: what is asked of an endpoint costs money, and is of no study file."""
    verb = verbs.add_parser("judge", help="have a language model compare a study's summaries with the references")
    verb.add_argument("study", metavar="DETAIL")
    verb.add_argument("--scale", default="mini", help="mini (the default), pythia-1b, or a changed one's full name")
    verb.add_argument("--model", required=True, metavar="NAME", help="as its endpoint calls it")
    verb.add_argument("--base-url", default="", metavar="URL", help="another endpoint, as http://HOST:8000/v1")
    verb.add_argument("--key-env", default="", metavar="NAME", help="variable that holds the endpoint's key")
    verb.add_argument("--posts", type=_at_least_one, default=argparse.SUPPRESS, metavar="N", help="the first N alone")
    verb.add_argument("--temperature", type=float, default=argparse.SUPPRESS, help="the endpoint's own")
    verb.add_argument("--max-tokens", type=_at_least_one, default=512, metavar="N", help="of an answer (512)")
    verb.add_argument("--threads", type=_at_least_one, default=8, metavar="N", help="questions at a time (8)")
    verb.add_argument("--price-in", type=_money, default=argparse.SUPPRESS, metavar="X", help="of a million asked")
    verb.add_argument("--price-out", type=_money, default=argparse.SUPPRESS, metavar="X", help="of a million answered")
    verb.add_argument("--yes", action="store_true", help="ask the judge without asking here first")
    verb.set_defaults(run=_judge)


def _details(arguments: argparse.Namespace) -> int:
    from repro.cli import catalogue

    chosen = [catalogue.find(arguments.name)] if arguments.name else list(catalogue.entries().values())
    if arguments.json:
        print(json.dumps([catalogue.record(entry) for entry in chosen], indent=1))
    elif arguments.name:
        console.print(catalogue.card(*chosen), soft_wrap=False, width=min(console.width, catalogue.READABLE))
    else:
        console.print(catalogue.listing(console.width), soft_wrap=False)
    return 0


def _docs(arguments: argparse.Namespace) -> int:
    from repro.cli import docs

    if not arguments.check:
        docs.write()
        print(f"wrote {docs.PAGE}")
    elif docs.is_stale():
        print(f"{docs.PAGE} is not what the registry says; make docs writes it again", file=sys.stderr)
        return 1
    return 0


def _study(arguments: argparse.Namespace):
    from repro.study import ablation

    return ablation.load(
        arguments.study,
        arguments.scale,
        arguments.seeds,
        _changes(arguments),
        _company(arguments),
        arguments.arms,
        until=arguments.until,
        looks=arguments.looks,
    )


def _changes(arguments: argparse.Namespace) -> dict[str, str]:
    return pairs_of("--set", arguments.set, "FIELD=VALUE, as episodes=512")


def _company(arguments: argparse.Namespace) -> dict[str, str]:
    return pairs_of("--with", getattr(arguments, "with"), "DETAIL=LABEL, as kl_estimator=k3")


def pairs_of(option: str, words: Sequence[str], form: str) -> dict[str, str]:
    """What NAME=VALUE words say; UserError, with the form that is wanted, where one says nothing or a name comes twice."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{option} {word!r} has no value; write {form}")
        if name in pairs:
            raise UserError(f"{option} {name} is given twice, as {pairs[name]} and {value}; give it once")
        pairs[name] = value
    return pairs


def _cache() -> Path:
    """The folder of artefacts, made and tried before anything is spent."""
    return _writable(_cache_path(), "cache", "set REPRO_CACHE to one that is")


def _cache_path() -> Path:
    return Path(os.environ.get("REPRO_CACHE") or "cache")


def _writable(folder: Path, kind: str, remedy: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a name of its own: studies that start together try the same folder
            pass
    except OSError as error:
        raise UserError(f"the {kind} folder {folder} is not writable ({error.strerror}); {remedy}") from None
    return folder


def _plan(arguments: argparse.Namespace) -> int:
    study = _study(arguments)
    from repro.engine import cost, forecast, launch, speed

    cache = _cache()
    board = launch.board_of(study, cache)
    gpu = cost.for_gpu(study.scale)
    workers, refusal = (1, "") if gpu and not cost.at_hand().here else _workers(study.scale)
    console.print(f"[bold]{study.detail.name}[/bold] at scale {study.scale.name}: {study.question}", highlight=False)
    seeds = " ".join(map(str, study.seeds))
    console.print(f"arms {', '.join(study.arms)}; seeds {seeds}; primary metric {study.primary}", highlight=False)
    _tell_of_corrupt(board)
    waiting, start_up = [job for key, job in board.jobs.items() if key not in board.done], _seconds_since_start()
    speeds = speed.UNMEASURED if gpu or not waiting else speed.known(cache, study.scale)
    each = "time each" if gpu else "seconds each"
    table = Table("stage", "runs", "shared by arms", "cached", each, box=None, header_style="dim")
    for name in dict.fromkeys(job.stage for job in board.jobs.values()):
        jobs = [job for job in board.jobs.values() if job.stage == name]
        cached = sum(job.key in board.done for job in jobs)
        shared = "yes" if len(jobs) < len(study.arms) * len(study.seeds) else "no"
        seconds = cost.seconds(jobs, cache) / len(jobs)
        taken = _duration(seconds) if gpu else f"{seconds:.0f}"
        table.add_row(name, str(len(jobs)), shared, f"{cached}/{len(jobs)}", taken)
    console.print(table)
    for line in cost.told(waiting, study.scale, cache, workers) if gpu and waiting else ():
        console.print(line, highlight=False)
    for line in forecast.sources(waiting, cache, str(speeds)) if not gpu else ():
        console.print(line, highlight=False)
    # Workers take about as long to start as this process did, once the launcher has.
    seconds = forecast.wall(waiting, cache, workers, 2 * start_up)
    console.print(
        f"about {_duration(seconds)} with {workers} worker{'s' * (workers > 1)}" if waiting else "everything is cached"
    )
    if study.looks and waiting:
        first = launch.jobs_of(study.at(study.looks[0], study.arms))
        begun = forecast.wall([job for job in waiting if job.key in first], cache, workers, 2 * start_up)
        console.print(
            f"that is for all looks, at {_numbers(study.looks)} seeds; it ends at the first that decides, of which the "
            f"earliest takes about {_duration(begun)}",
            highlight=False,
        )
    if refusal:
        console.print(f"this machine would not run it: {refusal}", highlight=False)
    return 0


def _seconds_since_start() -> float:
    """Seconds since this process began, its imports included."""
    import time

    import psutil

    return time.time() - psutil.Process().create_time()


def _workers(scale) -> tuple[int, str]:
    """As many as a plan counts on here: one where this machine has too few GPUs, and why a run would be refused."""
    from repro.engine import launch

    try:
        return launch.workers_for(scale), ""
    except UserError as error:
        return 1, str(error)


def _run(arguments: argparse.Namespace) -> int:
    study, cache = _study(arguments), _cache()
    _require_report_folder()

    engine, command = _engine(arguments, [study]), _command(arguments, "run", arguments.study)
    _require_its_looks(study)
    console.print(f"[bold]{study.detail.name}[/bold] at scale {study.scale.name}: {study.question}", highlight=False)
    board = (_run_until_decided if study.looks else _run_seeds)(study, cache, engine, command)
    _tell_of_failures(board)
    try:
        _build_and_publish(study.detail.name, study.scale.name)
    except UserError as error:
        if not board.failed:
            raise
        print(f"no verdict: {error}", file=sys.stderr)
    return 1 if board.failed else 0


def _run_seeds(study, cache: Path, engine, command: str):
    """Run all arms and seeds of a study; where it stands then."""
    from repro.engine import launch

    board = launch.board_of(study, cache)
    console.print(
        f"{len(study.arms)} arms x {len(study.seeds)} seeds; {len(board.done)} of {len(board.jobs)} stages "
        f"are cached; {engine}",
        highlight=False,
    )
    _tell_of_corrupt(board)
    _check_data([study], board)
    _tell_of_no_gpu(study.scale, engine, board)
    _execute(study, board, engine, command)
    return board


def _run_until_decided(study, cache: Path, engine, command: str):
    """Look by look, each with more seeds of the arms that are undecided; where the last look that was needed stands."""
    left = [label for label in study.arms if label != study.detail.reference]
    for place, look in enumerate(study.looks, 1):
        console.print(f"look {place} of {len(study.looks)}, at {look} seeds: {', '.join(left)}", highlight=False)
        board = _run_seeds(study.at(look, left), cache, engine, command)
        if board.failed:
            break
        undecided = _undecided(study)
        left = [label for label in left if label in undecided]
        if not left:
            break
    return board


def _undecided(study) -> list[str]:
    """The study's arms about which the store's runs decide nothing yet."""
    from reports.pages import index
    from reports.reading import studies as read
    from repro.tracking.store import store_uri, usable_store

    with usable_store():
        rows, _ = index.compare(read.read_outline(study.detail.name, study.scale.name, store_uri()))
    return rows.loc[rows["verdict"] == "undecided", "arm"].tolist()


def _require_its_looks(study) -> None:
    """UserError where the store's runs of this study were, or may have been, judged at other numbers of seeds."""
    from reports.reading import studies as read
    from repro.tracking.store import store_uri, usable_store

    try:
        with usable_store():
            recorded = read.read_outline(study.detail.name, study.scale.name, store_uri())
    except UserError:  # nothing was judged yet; a store that cannot be used is told of where it is needed
        return
    asked, begun, seen = _numbers(study.looks), _numbers(recorded.looks), len(recorded.seeds)
    if recorded.looks and recorded.looks != study.looks:
        raise UserError(
            f"this study is judged at {begun} seeds, as was declared when it began; go on with --until decided --looks "
            f'{begun} (with make: UNTIL=decided LOOKS="{begun}"), or give it a store of its own'
        )
    if study.looks and not recorded.looks and seen not in study.looks and seen > study.looks[0]:
        raise UserError(
            f"{seen} seeds of this study have been looked at, and its looks are at {asked} seeds; put {seen} among them "
            f'(with make: LOOKS="..."), or give it a store of its own'
        )


def _numbers(values) -> str:
    return " ".join(map(str, values))


def _build_and_publish(detail: str, scale: str) -> None:
    """A study's page, there and in the store beside its runs, and the index."""
    from repro.tracking.attach import publish_report

    path, verdict = _build(detail, scale)
    publish_report(detail, scale, path.parent, verdict)
    _build_index()


def _check_data(studies, board) -> None:
    """UserError where an arm's data or starting point would be refused, before anything of what is left is run."""
    from repro.engine import atlas, launch
    from repro.stages import data

    for recipe in atlas.recipes(studies) if not board.over else ():
        data.check(recipe, studies[0].scale)
    launch.check_starts(board)


def _tell_of_failures(board) -> None:
    for label, why in board.broken.items():
        print(f"failed: {label}: {why}", file=sys.stderr)


def _tell_of_no_gpu(scale, engine, board) -> None:
    """It is run all the same: its budgets may be small."""
    from repro.engine import cost, launch

    if isinstance(engine, launch.Local) and not engine.devices and cost.for_gpu(scale) and not board.over:
        print(
            f"warning: scale {scale.name} is made for GPUs and this machine has none; `plan` says what it takes, and "
            "--engine slurm runs it on a cluster",
            file=sys.stderr,
        )


def _tell_of_corrupt(board) -> None:
    """On standard error, so that it is seen beside a live table too."""
    for key in board.corrupt:
        print(f"warning: the cached {board.jobs[key].label} is corrupt; it is made again", file=sys.stderr)


def _execute(study, board, engine, command: str) -> None:
    """Run what is left to run, shown and tracked."""
    if not board.over:
        engine.prepare()
    from repro.tracking.track import Tracker

    _follow(board, engine, Tracker(study, board, command))


def _follow(board, engine, tracker) -> None:
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


def _atlas(arguments: argparse.Namespace) -> int:
    from repro.engine import atlas, cost

    studies = atlas.studies(arguments.details, arguments.scale, arguments.seeds, _changes(arguments), _cache_path())
    _require_report_folder()
    if arguments.page:
        _build_atlas(studies[0].scale.name)
        return _build_index()
    cache = _cache()
    board, engine = atlas.board_of(studies, cache), _engine(arguments, studies)
    waiting = [job for key, job in board.jobs.items() if key not in board.done]
    console.print(
        f"{len(studies)} details, {sum(len(study.arms) - 1 for study in studies)} variants beside the reference; "
        f"{len(board.done)} of {len(board.jobs)} stages are cached; "
        f"about {_duration(cost.seconds(waiting, cache) / engine.workers)} with {engine}",
        highlight=False,
    )
    _tell_of_corrupt(board)
    if arguments.plan:
        return 0
    _check_data(studies, board)
    _tell_of_no_gpu(studies[0].scale, engine, board)
    _run_atlas(studies, board, engine, _command(arguments, "atlas", *arguments.details), cache)
    _build_atlas(studies[0].scale.name)
    _build_index()
    _tell_of_failures(board)
    return 1 if board.failed else 0


def _run_atlas(studies, board, engine, command: str, cache: Path) -> None:
    """Run what is left to run; the page of an interrupted atlas shows what there is."""
    from repro.tracking.store import require_store
    from repro.tracking.trackers import Trackers

    require_store(cache)
    try:
        _follow(board, engine, Trackers(studies, board, command))
    except BaseException:
        with suppress(UserError):
            _build_atlas(studies[0].scale.name)
            _build_index()
        raise


def _build_atlas(scale: str) -> None:
    """The page over all details at a scale."""
    from reports.pages import atlas, markup
    from repro.tracking.store import store_uri, usable_store

    registered = _registered()
    out = REPORTS / markup.folder("atlas", scale)
    with usable_store():
        path = atlas.build(scale, [each["name"] for each in registered], registered, store_uri(), out)
    console.print()
    console.print(atlas.headline(path), highlight=False)
    console.print(f"atlas: {path}", highlight=False)


def _registered() -> list[dict]:
    """What the pages over all details are told of each."""
    from repro.cli import catalogue

    records = [record for record in map(catalogue.record, catalogue.entries().values()) if record["kind"] == "detail"]
    return [each | {"variants": {v["label"]: v["does"] for v in each["variants"]}} for each in records]


def _report(arguments: argparse.Namespace) -> int:
    from repro.study import ablation
    from repro.tracking.address import store_uri

    _require_report_folder()
    detail, scale = ablation.names(arguments.study, arguments.scale, _changes(arguments), _company(arguments))
    console.print(f"reading {detail} at scale {scale} from {store_uri()} ...", highlight=False, markup=False)
    _build(detail, scale)
    return _build_index()


def _build(detail: str, scale: str) -> tuple[Path, str]:
    """A study's page; the file and the verdict in words."""
    from reports.pages import markup, page
    from reports.reading import studies as read
    from repro.tracking.store import store_uri, usable_store

    with usable_store():
        study = read.read_study(detail, scale, store_uri())
    path = page.build(study, REPORTS / markup.folder(detail, scale))
    verdict = page.headline(path)
    console.print()
    console.print(verdict, highlight=False)
    console.print(f"report: {path}", highlight=False)
    return path, verdict


def _build_index() -> int:
    from reports.pages import index
    from repro.cli.source import Source
    from repro.tracking.store import store_uri, usable_store

    registered = Source(Path(__file__).parents[1]).outline()  # without the registry's functions, which need torch
    with usable_store():
        console.print(f"index: {index.build(REPORTS, store_uri(), registered)}", highlight=False)
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from reports.pages import inspect
    from repro.tracking.store import store_uri, usable_store

    wide = Console(width=max(console.width, inspect.WIDTH))  # a number that wraps is better than one cut off
    with usable_store():
        if "episode" not in arguments:
            wide.print(inspect.listing(store_uri(), arguments.which))
            return 0
        told = inspect.shown(store_uri(), arguments.which, arguments.episode)
        _require_report_folder()
        path = inspect.build_one(store_uri(), arguments.which, arguments.episode, REPORTS / "episodes")
    wide.print(told)
    console.print(f"page: {path}", highlight=False)
    return 0


def _figures(_: argparse.Namespace) -> int:
    from reports.pages import paper
    from repro.tracking.store import recorded_studies, store_uri, usable_store

    _require_report_folder()
    found = recorded_studies()
    if not found:
        raise UserError(f"the MLflow store {store_uri()} holds no study; run one, as make ablation DETAIL=whiten_adv")
    for detail, scale in found:
        try:
            _build(detail, scale)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
    with usable_store():
        console.print(f"\nthe paper beside it: {paper.build(store_uri(), REPORTS / 'paper')}", highlight=False)
    scales = [scale for _, scale in found]
    for scale in dict.fromkeys(scale for scale in scales if scales.count(scale) > 1):
        _build_atlas(scale)
    return _build_index()


def _calibrate(arguments: argparse.Namespace) -> int:
    """The control detail at the smallest scale, over many seeds, and the page on what the statistics say of it."""
    from reports.pages import calibration
    from reports.reading import studies as read
    from repro.engine import launch
    from repro.study import ablation
    from repro.tracking.store import store_uri, usable_store

    study, cache = ablation.load("draws", "smoke", arguments.seeds or CALIBRATION_SEEDS), _cache()
    _writable(CALIBRATION.parent, "documentation", "run where it is")
    board = launch.board_of(study, cache)
    _execute(study, board, launch.local(study.scale), _command(arguments, "calibrate"))
    _tell_of_failures(board)
    with usable_store():
        outline = read.read_outline(study.detail.name, study.scale.name, store_uri())
    print(f"calibration: {calibration.build(outline, CALIBRATION_METRICS, ablation.LOOKS, CALIBRATION)}")
    return 1 if board.failed else 0


def _judge(arguments: argparse.Namespace) -> int:
    """A language model's word on every run that was evaluated: told what it costs, asked, published, and on the page."""
    from reports.reading import studies as read
    from repro.stages import judge
    from repro.tracking.attach import publish_judgement
    from repro.tracking.store import store_uri, usable_store

    _require_report_folder()
    sampling = {"max_completion_tokens": arguments.max_tokens}
    sampling |= {"temperature": arguments.temperature} if "temperature" in arguments else {}
    who = judge.judge(arguments.model, arguments.base_url, **sampling)
    with usable_store():
        study = read.read_study(arguments.study, arguments.scale, store_uri())
    tables = {place: table.head(getattr(arguments, "posts", len(table))) for place, table in study.samples.items()}
    if not tables:
        raise UserError(f"the study {study.detail}-{study.scale} has no summaries to judge: {' '.join(study.troubles)}")
    answers = judge.Answers(_cache() / "judge")
    failures = _ask_judge(arguments, who, judge.questions_of(who, tables), answers)
    run_ids = study.runs.set_index(["arm", "seed"])["run_id"]
    said = {place: judge.judgement(who, table, answers) for place, table in tables.items()}
    for place, judgement in said.items():
        publish_judgement(run_ids[place], judgement)
    console.print(_verdicts({place: judgement["metrics"] for place, judgement in said.items()}))
    _build_and_publish(study.detail, study.scale)
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
    prices, key = _prices(arguments), judge.secret(arguments.base_url, arguments.key_env)
    console.print(judge.cost(who, waiting, answers).words(*prices), highlight=False)
    _require_consent(arguments.yes, f"ask {who.host} {len(waiting)} questions")
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("answers", total=len(waiting))
        return judge.gather(who, key, waiting, answers, arguments.threads, lambda: progress.advance(task))


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


def _at_least_one(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a whole number above 0")
    return int(word)


def _ui(arguments: argparse.Namespace) -> int:
    from repro.tracking import ui

    ui.show(arguments.study, arguments.scale, arguments.port, lambda line: print(line, flush=True))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from repro.tracking import transfer

    found = transfer.bring(arguments.store, _cache())
    table = Table("study", *transfer.FATES, box=None, header_style="dim")
    for study in dict.fromkeys(each.study for each in found):
        fates = [each.fate for each in found if each.study == study]
        table.add_row(study, *(str(fates.count(fate) or "") for fate in transfer.FATES))
    console.print(table)
    troubles = [each for each in found if each.trouble]
    for each in troubles:
        print(f"not read: {each.study} {each.run}: {each.trouble}", file=sys.stderr)
    return 1 if troubles else 0


def _fetch(arguments: argparse.Namespace) -> int:
    from repro.engine import fetch
    from repro.models import hub
    from repro.study import scale

    budget = scale.find(arguments.scale, _changes(arguments))
    wanted = fetch.needs(budget, hub.STARTS.values() if arguments.released else ())
    if not wanted:
        console.print(f"scale {budget.name} needs nothing of the hub")
        return 0
    _show_needs({need: fetch.survey(need) for need in wanted})
    brought = fetch.all_of(wanted, lambda need: print(f"here: {need.source}", flush=True))
    console.print(f"what it was, commit by commit: {fetch.record(fetch.home(), brought)}", highlight=False)
    if budget.corpus == "tldr":
        console.print(", ".join(f"{what} {rows:,}" for what, rows in fetch.counts(budget).items()), highlight=False)
    _say_how_to_carry(brought, fetch.home())
    if "to" in arguments:
        paths = fetch.copy(brought, _writable(arguments.to, "target", "give another"))
        fetch.record(arguments.to, brought)
        words = " ".join(f"{field}={path}" for field, path in paths.items())
        console.print(f"as plain files: {arguments.to}; a scale reads them with --set {words}", highlight=False)
    return _compare(fetch.agreements(budget, arguments.check)) if "check" in arguments else 0


def _show_needs(found) -> None:
    table = Table("field", "source", "files", "size", "to download", box=None, header_style="dim")
    for need, content in found.items():
        table.add_row(need.field, need.source, str(len(content.files)), _bytes(content.size), _bytes(content.missing))
    console.print(table)
    console.print(f"{_bytes(sum(each.missing for each in found.values()))} to download", highlight=False)


def _say_how_to_carry(brought, home: Path) -> None:
    from repro.engine import fetch

    console.print(
        f"{_bytes(fetch.size(brought))} in {home}; for a machine without a network: "
        f"rsync -a {home}/ THERE:.cache/huggingface/, and there "
        "export HF_HUB_OFFLINE=1 (and HF_HOME=FOLDER, where it lies elsewhere)",
        highlight=False,
    )


def _compare(agreements) -> int:
    """Exit code 1 where a column of ours is not the authors'."""
    table = Table("file", "column", "rows", "the same", "first that is not", box=None, header_style="dim")
    found = list(agreements)
    for each in found:
        table.add_row(each.file, each.column, str(each.rows), str(each.same), each.first)
    console.print(table)
    return int(any(each.same < each.rows for each in found))


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.2f} MB"


def _money(word: str) -> float:
    try:
        price = float(word)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise argparse.ArgumentTypeError(f"{word} is not a price: a number that is 0 or more, and finite")
    return price


def _pretrain(arguments: argparse.Namespace) -> int:
    from repro.stages import base

    base.make_embedded_base(arguments.folder, arguments.steps)
    return 0


REPORTS = Path("reports") / "build"
CALIBRATION = Path("docs") / "calibration.md"
CALIBRATION_SEEDS = [str(seed) for seed in range(1, 101)]
CALIBRATION_METRICS = ("test/gold", "test/score", "test/length", "test/kl")  # nothing wins at the smallest scale


def _require_report_folder() -> None:
    _writable(REPORTS, "report", "run where it is")


def _command(arguments: argparse.Namespace, *what: str) -> str:
    """The command that was given, with the options that it has."""
    words = ["python", "-m", "repro", *what]
    scale = getattr(arguments, "scale", "")
    words += ["--scale", scale] if scale else []
    for option in ("seeds", "arms", "with"):
        given = getattr(arguments, option, [])
        words += [f"--{option}", *given] if given else []
    return shlex.join(words + _set_words(arguments))


def _set_words(arguments: argparse.Namespace) -> list[str]:
    """Of a path only its last part: the rest is of this machine."""
    pairs = [word.partition("=") for word in getattr(arguments, "set", [])]
    short = [f"{f}={Path(v).name if '/' in v and not v.startswith(('gpt-neox:', 'hub:')) else v}" for f, _, v in pairs]
    return ["--set", *short] if short else []


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def _quiet() -> None:
    """MLflow's migrations and library warnings are not news to a person who watches a study."""
    warnings.filterwarnings("ignore")
    # Also in the processes that this one starts, and in their watchdog, which tells of each lock of an ended worker.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads it when it is imported, by whomever
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
