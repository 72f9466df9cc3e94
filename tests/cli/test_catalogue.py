"""The registry as it is shown: complete, and true to the source."""

import ast
import re
from functools import cache

import pytest
from rich.console import Console

from repro import details
from repro.cli import catalogue
from repro.detail import PIPELINE, Clash
from repro.details import CHECKS, CLASHES, DETAILS, GAE_LAMBDA, GAMMA, GROUPS, KL_COEF, KL_CONTROLLER, WHITEN_ADV
from repro.engine import pipeline
from repro.errors import UserError
from repro.study import metrics
from tests.paths import ROOT

each_detail = pytest.mark.parametrize("detail", DETAILS.values(), ids=DETAILS)


def printed(what, width):
    """What a terminal of so many columns shows."""
    console = Console(width=width)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


# ------------------------------------------------------------------------------------------------ what is there


def test_every_number_of_the_paper_has_an_entry():
    told = {number for entry in catalogue.entries().values() for number in entry.declared.numbers}
    assert told == set(range(1, 26))


def test_there_are_the_entries_that_were_promised():
    assert len(catalogue.entries()) >= 55


@pytest.mark.every_detail
def test_every_entry_is_in_one_group():
    assert sorted(name for names in GROUPS.values() for name in names) == sorted([*DETAILS, *CHECKS])


def test_an_entry_that_is_not_there_is_told_with_the_nearest():
    with pytest.raises(UserError, match="no detail or check 'whiten_avd'; did you mean 'whiten_adv'"):
        catalogue.find("whiten_avd")


@pytest.mark.parametrize("entry", catalogue.entries().values(), ids=catalogue.entries())
def test_a_record_tells_all_of_an_entry(entry):
    told, declared = catalogue.record(entry), entry.declared
    assert GROUPS[told["group"]].count(told["name"]) == 1
    for field in ("name", "paper", "question"):
        assert told[field] == getattr(declared, field) != ""
    for field in ("stages", "numbers"):
        assert tuple(told[field]) == getattr(declared, field)
    assert told["metrics"] and [metric for metric in told["metrics"] if not metrics.known(metric)] == []
    assert told.keys() == catalogue.record(catalogue.find("whiten_adv")).keys()


@each_detail
def test_a_record_of_a_detail_has_its_variants_and_predictions(detail):
    told = catalogue.record(catalogue.find(detail.name))
    assert told["kind"] == "detail" and told["reference"] == detail.reference == told["variants"][0]["label"]
    assert {each["label"]: each["does"] for each in told["variants"]} == {
        label: variant.does for label, variant in detail.variants.items()
    }
    assert (told["hypothesis"], told["expected"]) == (detail.hypothesis, detail.expected)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_record_of_a_check_has_what_was_found(check):
    told = catalogue.record(catalogue.find(check.name))
    assert told["kind"] == "check" and told["variants"] == [] and told["expected"] == {}
    assert (told["measures"], told["found"], told["metrics"]) == (check.measures, check.found, list(check.metrics))
    assert told["measures"] and told["found"]


# ------------------------------------------------------------------------------------------------ where it is


def line_at(place):
    return (ROOT / place.file).read_text().splitlines()[place.line - 1]


def constant_of(declared):
    """The name that the registry's module gives to a detail or check."""
    return next(name for name, value in vars(details).items() if value is declared)


@pytest.mark.parametrize("entry", catalogue.entries().values(), ids=catalogue.entries())
def test_places_are_lines_that_declare_and_read_it(entry):
    constant = constant_of(entry.declared)
    assert re.match(rf"{constant} = (Detail|Check)\(", line_at(entry.place))
    call = {"detail": r"\bpick\(", "check": r"^def \w+\("}[entry.kind]
    assert all(re.search(call, line_at(place)) for place in entry.calls)
    assert len(set(entry.calls)) == len(entry.calls)


@cache
def files_of(stage):
    """The files in which a stage may read its details: its module's, and those that it imports and that are no stage's."""
    if stage == PIPELINE:
        return {"repro/engine/pipeline.py"}
    own = pipeline.BY_NAME[stage].run.__module__
    others = {each.run.__module__ for each in pipeline.STAGES} - {own}
    found, left = set(), [own]
    while left:
        module = left.pop()
        file = ROOT / f"{module.replace('.', '/')}.py"
        if module in others or module in found or not file.exists():
            continue
        found.add(module)
        left += imports(file)
    return {f"{module.replace('.', '/')}.py" for module in found}


@cache
def imports(file):
    """Modules of the project: `repro.stages.sft` of `from repro.stages import sft` or `from repro.stages.sft import run`."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "repro":
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@each_detail
def test_a_detail_is_called_in_each_stage_that_it_is_declared_for(detail):
    entry = catalogue.find(detail.name)
    called = {place.file for place in entry.calls}
    for stage in detail.stages:
        assert called & files_of(stage), (
            f"{entry.place}: {detail.name} is declared for {stage}, where pick(d.{constant_of(detail)}) stands nowhere; "
            f"{stage} begins at {begins_at(stage)}"
        )


def begins_at(stage):
    """file:line of the function that is the stage."""
    if stage == PIPELINE:
        return "repro/engine/pipeline.py"
    run = pipeline.BY_NAME[stage].run
    return f"{run.__module__.replace('.', '/')}.py:{run.__code__.co_firstlineno}"


def test_a_check_is_measured_in_each_stage_that_logs_it():
    for check in CHECKS.values():
        files = {place.file for place in catalogue.find(check.name).calls}
        assert [stage for stage in check.stages if not files & files_of(stage)] == [], check.name


# ------------------------------------------------------------------------------------------------ in words


def test_a_prediction_is_told_in_words():
    assert catalogue.in_words("up") == "rises"
    assert catalogue.in_words({"0": "up", "0.2": "down", "0.01": "up"}) == "rises at 0, 0.01; falls at 0.2"
    assert catalogue.in_words({"off": "same"}, "`{}`") == "stays at `off`"


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("a/b", "this one"),
        ("a/d", "any"),
        ("c/*", "those"),
        ("d/b", "this one; before"),
        ("d/x", "any; before"),
        ("e/f", "this one; of f"),
        ("g/b", "this one; before; after"),
        ("a/cold_d", "any; in winter"),
    ],
)
def test_a_metric_is_told_by_its_own_definition_or_that_of_a_pattern_or_that_of_another(metric, told, monkeypatch):
    table = {
        "a/cold_*": "as a/, in winter",
        "a/*": "any",
        "a/b": "this one",
        "c/*": "those",
        "d/*": "as a/, before",
        "e/f": "as a/b, of f",
    }
    monkeypatch.setattr(catalogue, "METRICS", table | {"g/*": "as d/, after"})
    assert catalogue.meaning(metric) == told


def test_a_metric_without_a_definition_is_told_with_the_nearest():
    with pytest.raises(
        UserError, match="there is no metric 'objective/kll' in repro/study/metrics.py; did you mean 'ob"
    ):
        catalogue.meaning("objective/kll")


@pytest.mark.parametrize("width", [80, 160])
def test_the_list_fits_and_names_every_variant(width):
    told = printed(catalogue.listing(width), width)
    assert max(map(len, told.splitlines())) <= width
    words = " ".join(told.split())
    for name, entry in catalogue.entries().items():
        assert re.search(rf"^{name} ", told, re.MULTILINE)
        labels = getattr(entry.declared, "variants", ())
        assert all(re.search(rf"(?<!\S){re.escape(label)}(,|\s|$)", told) for label in labels)
    assert all(group in told for group in GROUPS)
    assert f"{len(DETAILS)} details and {len(CHECKS)} checks" in words


@pytest.mark.parametrize("entry", catalogue.entries().values(), ids=catalogue.entries())
def test_a_card_tells_all_of_an_entry(entry):
    told, record = printed(catalogue.card(entry), 80), catalogue.record(entry)
    assert max(map(len, told.splitlines())) <= 80
    words = " ".join(told.split())
    for text in (record["question"], record["paper"], record["declared"], *record["call_sites"]):
        assert text in words
    for text in (record["hypothesis"], record["measures"], record["found"]):
        assert " ".join(text.split()) in words
    for variant in record["variants"]:
        assert f"{variant['label']} {' '.join(variant['does'].split())}" in words
    for metric in record["metrics"]:
        assert metric in words and " ".join(catalogue.meaning(metric).split()) in words
    assert (f"make ablation DETAIL={entry.name}" in words) == (entry.kind == "detail")


@pytest.mark.parametrize("clash", CLASHES, ids=lambda clash: f"{clash.one.name}-{clash.other.name}")
def test_a_clash_is_told_on_both_sides(clash):
    for detail, other in ((clash.one, clash.other), (clash.other, clash.one)):
        words = " ".join(printed(catalogue.card(catalogue.find(detail.name)), 80).split())
        assert re.search(rf"\b{other.name} (=|not) .*{re.escape(clash.why)}", words)


def test_clashes_of_one_reason_are_told_in_one_sentence(monkeypatch):
    reason = "since so"
    clashes = (
        Clash(WHITEN_ADV, ("off",), GAMMA, ("0.99", "0.95"), reason),
        Clash(KL_CONTROLLER, ("adaptive",), WHITEN_ADV, ("off",), reason),
        Clash(WHITEN_ADV, ("scale_only", "off"), GAMMA, ("0.99",), "since else", beside=((KL_COEF, ("0",)),)),
    )
    monkeypatch.setattr(catalogue, "CLASHES", clashes)
    assert catalogue.clashes(WHITEN_ADV) == [
        "whiten_adv = off with gamma not 1 or kl_controller = adaptive: since so",
        "whiten_adv not shift_and_scale with gamma = 0.99, where kl_coef = 0: since else",
    ]
    assert catalogue.clashes(GAE_LAMBDA) == []
