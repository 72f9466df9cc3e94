"""The benchmark of PPO, stages and workers: its bound is of the work that there is, and its tables and JSON lack nothing."""

import json
from dataclasses import asdict, fields, replace

import pytest
import torch

from benchmarks import bench, bound, stages, turns
from benchmarks.isolated import Isolated
from benchmarks.load import Shape, setting_of, update
from repro.engine.flops import (
    CURRENT,
    LEAN,
    Network,
    Product,
    comparison,
    forward_backward,
    repeated,
    rollout,
    sft,
    total,
)
from repro.engine.flops import update as learning
from repro.engine.pipeline import BY_NAME
from repro.engine.stage_flops import Lengths, Stages
from repro.study.scale import SCALES
from tests.counting import flops_of

SHAPE, ROWS = Shape("gpt-neox:32/4/2/64", 128, 24, 8), 4
NETWORK = bench.network_in(SHAPE)


class Here:
    """`Isolated` without a process, which would take seconds to start."""

    def __init__(self, threads):
        self.peak_gib = lambda: 0.5

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self, function, *arguments):
        self.result = lambda: function(*arguments)
        return self

    def __call__(self, function, *arguments):
        return function(*arguments)


@pytest.fixture(scope="module")
def real():
    """Operations of an update of PPO as it is."""
    setting, generator = setting_of(SHAPE, ROWS), torch.Generator().manual_seed(0)
    return flops_of(lambda: update(setting, SHAPE, ROWS, generator, bench.EPOCHS))


def test_an_update_is_as_many_operations_as_the_formula_says(real):
    sizes = NETWORK, ROWS, SHAPE.query, SHAPE.response
    assert total(rollout(*sizes, CURRENT)) + 4 * total(learning(*sizes, CURRENT)) == pytest.approx(real, rel=0.03)


def test_the_bound_counts_no_work_that_an_update_does_without(real):
    least = total(bound.ppo_products(NETWORK, ROWS, SHAPE.query, SHAPE.response, epochs=4))
    assert 0.5 * real < least < 1.01 * real


@pytest.mark.parametrize("what", [field.name for field in fields(LEAN)])
def test_leaving_work_out_is_less_of_it(what):
    def all_in_all(economy):
        parts = (
            rollout(NETWORK, 2, 24, 8, economy),
            learning(NETWORK, 2, 24, 8, economy),
            comparison(NETWORK, 2, 24, 32, economy),
        )
        return sum(map(total, (*parts, sft(NETWORK, 2, 32, economy))))

    assert all_in_all(LEAN) < all_in_all(replace(LEAN, **{what: False}))
    assert all_in_all(LEAN) < all_in_all(CURRENT)


def test_a_query_that_is_read_once_spares_a_comparison_a_fifth_and_more():
    twice = comparison(NETWORK, 2, 24, 32, replace(CURRENT, shared_query=False))
    assert total(comparison(NETWORK, 2, 24, 32)) < 0.8 * total(twice)


def test_a_backward_pass_is_two_forward_ones_and_what_it_computes_again():
    forward = rollout(NETWORK, 2, 24, 8)
    layers, logits = ([p for p in forward if p.kind in kinds] for kinds in (("linear", "attention"), ("logits",)))
    assert total(forward_backward(forward, economy=LEAN)) == pytest.approx(3 * total(forward))
    assert total(forward_backward(forward)) == pytest.approx(3 * total(forward) + total(logits))
    assert total(forward_backward(forward, again=1)) - total(forward_backward(forward)) == pytest.approx(total(layers))


def test_a_stage_with_twice_the_texts_is_twice_the_work_and_unknown_networks_stay_unknown():
    scale, lengths = SCALES["smoke"], Lengths(55, 17, 69, 71)
    twice = replace(scale, posts=2 * scale.posts, comparisons=2 * scale.comparisons, episodes=2 * scale.episodes)
    for name, part in (("sft", "sft"), ("rm", "rm"), ("ppo", "update"), ("ppo", "roll out")):
        once, more = (total(Stages(each, NETWORK, lengths, economy=LEAN).of(name)[part]) for each in (scale, twice))
        assert more == pytest.approx(2 * once)
    assert Stages(scale, NETWORK, lengths).of("data") == {}
    assert not total(Stages(scale, Network(), lengths).of("sft")["sft"]) > 0


def test_a_bound_is_the_seconds_of_its_products():
    product = Product("linear", 1, 256, 256, 256)
    one, many = (bound.measured(repeated([product], times)) for times in (1, 1000))
    assert one.flops == 2 * 256**3 and many.flops == 1000 * one.flops
    assert many.seconds > 50 * one.seconds > 0
    assert bound.measured([]) == bound.Bound(0, 0) and bound.measured([]).rate == 0


def test_a_process_apart_keeps_its_threads_and_tells_its_memory():
    with Isolated(1) as process:
        assert process(torch.get_num_threads) == 1
        assert 0.1 < process.peak_gib() < 8


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the command tells and writes, with all parts, in this process."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    with pytest.MonkeyPatch.context() as patch, open(file.with_suffix(".txt"), "w") as told:
        patch.setattr("sys.stdout", told)
        patch.setattr(bound, "SECONDS", 0.001)  # of each of hundreds of products
        for module in (bench, stages):
            patch.setattr(module, "Isolated", Here)
        assert bench.main(["--quick", "--batch", "4", "--json", str(file)]) == 0
    return file.with_suffix(".txt").read_text(), json.loads(file.read_text())


def test_the_json_is_complete(ran):
    found = ran[1]
    assert found["kind"] == "bench" and set(bench.PARTS) < found.keys()
    assert all(found["about"][name] for name in ("processor", "cores", "torch", "date"))
    shape = found["ppo"]["tiny"]
    assert shape["seconds"]["median"] > shape["bound_seconds"]["median"] > 0 and shape["peak_gib"] == 0.5
    assert list(found["stages"]["stages"]) == [name for name in BY_NAME if name != "feedback"]
    assert 0 < found["stages"]["lengths"]["response"] <= SCALES["smoke"].response_tokens
    for name, stage in found["stages"]["stages"].items():
        assert stage["seconds"] > stage["bound_seconds"] and (stage["flops"] > 0) == (name not in ("data", "base"))
    assert found["workers"]["ratio"]["median"] > 0 and found["workers"]["target"] == bench.TARGET


def test_the_tables_have_every_row(ran):
    rows = [line.replace("│", " ").split() for line in ran[0].splitlines()]
    first = [row[0] for row in rows if row]
    assert {"tiny", *ran[1]["stages"]["stages"], "1", "2"} <= set(first)
    tiny = next(row for row in rows if row[:1] == ["tiny"])
    assert "%" in tiny and ran[1]["about"]["processor"].split()[0] in ran[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--part", "none"], "--part"), (["--batch", "0"], "at least 1"), (["--budget", "2"], "at most 1")],
)
def test_what_it_cannot_do_is_one_line(words, told, capsys):
    assert bench.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error and error.count("\n") == 1


def test_a_reduced_scale_has_whole_batches():
    scale = stages.reduced(SCALES["mini"], 0.25)
    assert (scale.posts, scale.comparisons, scale.episodes) == (512, 1496, 320)
    assert stages.reduced(SCALES["mini"], 1.0) is SCALES["mini"]


def test_a_spread_is_median_and_both_ends():
    spread = turns.Spread.of([3.0, 1.0, 2.0])
    assert asdict(spread.scaled(2)) == {"median": 4.0, "min": 2.0, "max": 6.0} and spread.told(0) == "2 (1 to 3)"
