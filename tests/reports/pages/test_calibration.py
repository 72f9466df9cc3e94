"""The calibration of the verdicts: its simulated claims against theory, its real part by hand, and the page it writes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from repro.errors import UserError
from repro.reports.pages import calibration
from repro.reports.reading.study import Study
from repro.reports.statistics import judging, pairing, sample_size, simulation, student
from repro.reports.statistics.simulation import SHAPES, real, simulate, simulate_beside, simulate_families
from tests.paths import ROOT

PAGE = ROOT / "docs" / "calibration.md"
STUDIES = 6_000
SEEDS = 40
BESIDE = "statistics.md"
METRICS = ("test/gold", "test/kl", "test/length")


def near(rates: pd.Series, truth: np.ndarray, studies: int) -> bool:
    """Whether every rate is within 3.5 standard errors of what it should be."""
    return bool((np.abs(rates - truth) < 3.5 * np.sqrt(truth * (1 - truth) / studies) + 1e-9).all())


def claims(simulated: pd.DataFrame) -> None:
    """What the pages say of the simulated part."""
    table = simulated.set_index(["shape", "effect", "n"]).sort_index()
    rates, wrong = table["shown"], table["no_difference"]
    n = np.array(simulation.SIZES)
    assert near(rates["normal", 0.0], np.full(len(n), 0.05), STUDIES)
    for effect in simulation.EFFECTS:
        assert near(rates["normal", effect], sample_size.power(n, effect), STUDIES)
        assert (wrong["normal", effect] < 0.025 + 3.5 * np.sqrt(0.025 * 0.975 / STUDIES)).all()
    assert (rates["t, 3 df", 0.0] < 0.05).all() and (rates["lottery of either arm", 0.0] < 0.04).all()
    assert rates["lottery of one arm", 0.0, 3] > 0.14 and (rates["lottery of one arm", 0.0] > 0.14).all()
    assert rates["lottery of one arm", 0.0, 8] > 0.30 and wrong["lottery of one arm", 1.0, 5] > 0.25


def test_the_verdicts_keep_what_the_page_promises():
    claims(simulate(SHAPES, STUDIES))


@pytest.mark.parametrize(
    "broken",
    [
        lambda sd, n: stats.norm.ppf(0.975) * sd / np.sqrt(n),  # z in the place of t
        lambda sd, n: stats.t.ppf(0.975, n) * sd / np.sqrt(n),  # one degree of freedom too many
        lambda sd, n: stats.t.ppf(0.95, n - 1) * sd / np.sqrt(n),  # 90 %
        lambda sd, n: stats.t.ppf(0.975, n - 1) * sd * np.sqrt(2 / n),  # of two samples that are not paired
    ],
)
def test_a_broken_interval_is_found_out(broken, monkeypatch):
    monkeypatch.setattr(student, "half_width", broken)
    with pytest.raises(AssertionError):
        claims(simulate(SHAPES, STUDIES))


@pytest.mark.parametrize("smallest_effect", [0.0, 1.0, 2.0])
def test_what_is_simulated_is_judged_as_a_study_is(smallest_effect):
    drawn = SHAPES["t, 3 df"](np.random.default_rng(0), (30, 4)) + 0.7
    rows = [("m", f"arm{i:02}", s, 0, value) for i, own in enumerate(drawn) for s, value in enumerate(own)]
    values = pd.DataFrame(
        rows + [("m", "ref", s, 0, 0.0) for s in range(4)], columns=["metric", "arm", "seed", "step", "value"]
    )
    arms = tuple(f"arm{i:02}" for i in range(30))
    summary = pairing.intervals(pairing.differences(values, "ref"))
    expected = judging.verdicts(summary, arms, "m", smallest_effect, True)["verdict"]
    words = simulation.words(drawn, smallest_effect)
    assert words.tolist() == expected.tolist() and len(set(words)) > 1


@pytest.mark.parametrize("shape", [*SHAPES.values(), simulation.measured(np.array([3.0, 1.0, 1.0, 2.0]))])
def test_every_shape_has_mean_zero_and_spread_one(shape):
    drawn = shape(np.random.default_rng(1), (400_000,))
    assert abs(drawn.mean()) < 0.01 and drawn.std() == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("shape", SHAPES)
def test_rates_are_those_of_scipys_own_test(shape):
    drawn = SHAPES[shape](np.random.default_rng(2), (STUDIES, 5))
    expected = (stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05).mean()
    assert simulation.judged(drawn)["shown"] == pytest.approx(expected)


def test_holm_keeps_a_family_that_shares_its_reference():
    rows = simulate_families({"normal": simulation.normal}, 1_500).set_index(["n", "correction"])
    for n in simulation.SHOWN_SIZES:
        assert rows.loc[(n, "Holm"), "shown"] < 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 1_500)
        assert rows.loc[(n, "none"), "shown"] > 0.5  # and it is needed
        assert rows.loc[(n, "none"), "false_words"] == pytest.approx(2.5, abs=0.4)


def test_the_smallest_p_of_a_family_says_what_holm_says():
    said = []
    for smallest in (0.0002, 0.0024, 0.0026, 0.04):  # of twenty, one in 400 is the border
        p = pd.Series([*np.linspace(0.01, 1, 19), smallest])
        said.append((pairing.holm(p) < 0.05).any())
        assert said[-1] == (len(p) * p.min() < 0.05)
    assert said == [True, True, False, False]


def test_what_stands_beside_t_misses_as_often_as_the_page_says():
    rows = simulate_beside({"normal": simulation.normal, "one": simulation.lottery_of_one}, 400).set_index(
        ["shape", "n"]
    )
    assert (rows.loc["normal", "sign_flip"] < 0.09).all() and (rows.loc["one", "sign_flip"] > 0.2).all()
    assert rows["iqm_misses"].between(0.03, 0.13).all() and (rows["p_misses"] < 0.06).all()


def test_seeds_added_after_a_look_cost_the_promise():
    rows = simulation.simulate_follow_up(2_000).set_index(["n", "x"])
    assert (rows["shown"] >= rows["first_look"]).all() and rows.loc[(3, 0.5), "shown_low"] > simulation.ERROR
    assert rows["undecided"].between(0.0, 0.4).all() and rows.loc[(3, 0.5), "undecided"] > 0.1


@pytest.mark.parametrize("looks", [(4, 6, 8, 12), (3, 4, 5, 6, 7, 8)])
def test_studies_that_grow_keep_the_promise_and_are_decided(looks):
    rows = simulation.simulate_looks({"normal": simulation.normal}, looks, 4_000).set_index(["x", "effect"])
    assert (rows["shown_low"] < simulation.ERROR).all() and (rows["shown"] < 0.05).all()
    assert rows.loc[(2.5, 0.0), "decided"] > 0.85 and rows.loc[(2.5, 0.0), "seeds"] < rows.loc[(1.0, 0.0), "seeds"]
    assert (rows["seeds"] <= looks[-1]).all()


def test_studies_of_several_arms_that_grow_keep_the_promise_and_take_more_seeds():
    rows = simulation.simulate_looks_of_arms((4, 6, 8, 12), 1_000).set_index(["arms", "x", "effect"])
    assert (rows["shown"] < 0.05).all() and (rows["shown"] > 0).any()
    seeds = rows.xs((1.7, 0.0), level=("x", "effect"))["seeds"]
    assert seeds.is_monotonic_increasing and seeds.iloc[-1] > seeds.iloc[0] + 0.5


# Real A/A studies


def test_real_studies_are_disjoint_and_in_the_order_of_seeds():
    # the first three seeds agree on +1, the next three on -1, and two are left over
    values = pd.Series([1.0, 1.1, 0.9, -1.0, -1.1, -0.9, 50.0, -50.0])
    row = real({"gold score": values}).set_index("n").loc[3]
    assert (row["studies"], row["shown"]) == (2, 1.0)
    exact = stats.binomtest(2, 2).proportion_ci()
    assert (row["shown_low"], row["shown_high"]) == (exact.low, exact.high)
    assert real({"gold score": values}).set_index("n").loc[10, "studies"] == 0


@pytest.fixture(scope="module")
def control(request) -> Study:
    """A made-up A/A study in which one run in ten is hacked, and no length ever moves."""
    rng, rows = np.random.default_rng(5), []
    for seed in range(1, SEEDS + 1):
        shared = rng.normal()
        for arm in ("first", "again"):
            hacked = rng.random() < 0.1
            values = {"test/gold": shared + 0.3 * rng.normal() - 3 * hacked, "test/kl": 2 + rng.normal() + 9 * hacked}
            rows += [(arm, seed, metric, v) for metric, v in (values | {"test/length": 20.0}).items()]
    finals = pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"])
    return Study(
        uri="",
        detail="draws",
        scale="smoke",
        arms=("first", "again"),
        seeds=tuple(range(1, SEEDS + 1)),
        tags={},
        amended=(),
        curves=pd.DataFrame(),
        finals=finals[~((finals["seed"] == 7) & (finals["arm"] == "again"))],  # one run has no result
        runs=pd.DataFrame({"commit": ["0123abc"] * 2 * SEEDS}),
        samples={},
    )


def shorten(patch):
    """A simulation of few studies, which is what the page then says it is."""
    for name, size in {"STUDIES": 1_500, "FAMILIES": 60, "RESAMPLED": 40, "FOLLOWED": 200}.items():
        patch.setattr(calibration, name, size)


@pytest.fixture
def brief(monkeypatch):
    shorten(monkeypatch)


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    lines = text.split(f"## {heading}\n")[1].split("\n")
    first = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    table = [line for line in lines[first + 1 :]]
    end = next(i for i, line in enumerate(table) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[:end]]


@pytest.fixture(scope="module")
def written(control, tmp_path_factory) -> Path:
    """The page of a brief simulation, and its figures, in a folder with a page whose block it is to renew."""
    folder = tmp_path_factory.mktemp("written")
    (folder / BESIDE).write_text("before\n<!-- calibration -->\nstale\n<!-- /calibration -->\nafter\n")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        return calibration.build([(control, METRICS)], (4, 6, 8, 12), folder / "calibration.md")


def test_the_page_says_what_was_simulated_and_what_was_run(written):
    text = written.read_text()
    assert text.startswith("<!-- Generated by `make calibration`") and "(statistics.md)" in text and "&" not in text
    rates = simulate(SHAPES, 1_500).set_index(["shape", "effect", "n"])["shown"]
    told = {row[0]: row[1:] for row in rows_of(text, "In short")}
    for shape in SHAPES:
        assert told[shape] == [f"{100 * rates[shape, 0.0, n]:.1f} %" for n in simulation.SHOWN_SIZES]
    assert [row[:2] for row in rows_of(text, "The measured differences")] == [
        ["gold score", "39 of 40"],
        ["KL to the SFT policy [nats]", "39 of 40"],
    ]
    assert "all are equal, which is *undecided* by rule: response length [tokens]" in text and "0123abc" in text
    assert [row[:3] for row in rows_of(text, "False positives")][:4] == [
        ["gold score", n, studies] for n, studies in (("3", "13"), ("5", "7"), ("8", "4"), ("10", "3"))
    ]


def test_the_control_at_the_scale_of_studies_stands_beside_it_by_the_metric_that_decides_there(
    control, brief, unrendered, tmp_path
):
    few = control.finals[control.finals["seed"] < 10]
    larger = replace(control, scale="mini", seeds=tuple(range(1, 10)), finals=few)
    text = calibration.build(
        [(control, METRICS), (larger, ("test/gold",))], (4, 6, 8, 12), tmp_path / "calibration.md"
    ).read_text()
    assert "The same at `mini`, the scale that studies run at, with 9 seeds" in text
    assert rows_of(text, "The measured differences")[-1][:2] == ["gold score, at mini", "8 of 9"]
    assert "measured gold score, at mini" in {
        row[0] for row in rows_of(text, "Studies that grow until they are decided")
    }
    assert {row[0] for row in rows_of(text, "False positives")} >= {"gold score", "gold score, at mini"}


def test_the_page_of_the_documentation_is_of_this_simulation():
    rates = simulate(SHAPES, calibration.STUDIES).set_index(["shape", "effect", "n"])["shown"]
    told = {row[0]: row[1:] for row in rows_of(PAGE.read_text(), "In short")}
    for shape in SHAPES:
        assert told[shape] == [f"{100 * rates[shape, 0.0, n]:.1f} %" for n in simulation.SHOWN_SIZES]


def test_figures_lie_beside_the_page_and_equal_data_gives_equal_files(written, control, brief, tmp_path):
    calibration.build([(control, METRICS)], (4, 6, 8, 12), tmp_path / "calibration.md")
    one = written.parent
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != BESIDE)
    names = {f"calibration_{name}" for name in ("differences", "false_positives", "power")}
    assert {path.stem for path in files} == names | {"calibration"} and len(files) == 10
    assert all((one / path).read_bytes() == (tmp_path / path).read_bytes() for path in files)
    text = written.read_text()
    assert all(f"](images/{name}.png)" in text for name in names)


def test_the_block_of_the_page_beside_it_is_renewed_each_time(written):
    beside = written.with_name(BESIDE)
    once = beside.read_text()
    assert once.startswith("before\n<!-- calibration -->\nHow often") and "stale" not in once
    assert once.endswith("\n<!-- /calibration -->\nafter\n") and "| lottery of one arm |" in once
    calibration.renew(beside, "again")
    assert beside.read_text() == "before\n<!-- calibration -->\nagain\n<!-- /calibration -->\nafter\n"


def test_a_page_without_its_markers_is_told(tmp_path):
    (tmp_path / "statistics.md").write_text("no block")
    with pytest.raises(UserError, match="put both lines back"):
        calibration.renew(tmp_path / "statistics.md", "result")


def test_a_study_in_which_nothing_moves_leaves_the_simulated_part(control, brief, unrendered, tmp_path):
    still = replace(control, finals=control.finals.assign(value=0.0))
    text = calibration.build([(still, METRICS)], (4, 6, 8, 12), tmp_path / "calibration.md").read_text()
    assert "gold score, KL to the SFT policy [nats], response length [tokens]" in text
    assert "Real A/A studies, each" not in text and "calibration_differences" not in text
    assert [row[0] for row in rows_of(text, "In short")] == list(SHAPES)
