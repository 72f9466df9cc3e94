"""The planted contrasts: that each is what it says, and what counts as seen."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import sensitivity
from benchmarks.sensitivity import CONTROL, PLANTED, PRIMARY, REFERENCE, SHOWN
from repro.study import scale

MINI = scale.SCALES["mini"]


def runs(differences):
    """Arm -> its differences from the reference, seed by seed, as runs."""
    found = []
    for arm, apart in {REFERENCE.name: [0.0] * 8, **differences}.items():
        found += [
            {"arm": arm, "seed": seed, **dict.fromkeys(SHOWN, 0.0), PRIMARY: 0.6 + seed / 100 + difference}
            for seed, difference in enumerate(apart, 1)
        ]
    return found


def test_each_contrast_changes_something_and_says_beforehand_where_it_goes():
    assert len(PLANTED) == len({contrast.name for contrast in PLANTED}) > 0
    for contrast in PLANTED:
        assert contrast.expected == -1
        assert contrast.recipe() != REFERENCE.recipe() or contrast.scale(MINI) != MINI
    assert REFERENCE.scale(MINI) == CONTROL.scale(MINI) == MINI
    assert REFERENCE.recipe() != CONTROL.recipe()


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [("half the episodes", "episodes", 640), ("three times", "episodes", 3840), ("tenth", "comparisons", 600)],
)
def test_budgets_are_those_that_the_names_say(words, field, value):
    (contrast,) = [contrast for contrast in PLANTED if words in contrast.name]
    assert getattr(contrast.scale(MINI), field) == value
    changed = scale.find("mini", {"test_posts": "64"})
    assert (getattr(contrast.scale(changed), field), contrast.scale(changed).test_posts) == (value, 64)


def test_a_contrast_is_seen_two_spreads_of_the_control_away_and_in_the_direction_that_was_expected():
    lower, near, higher = PLANTED[:3]
    found = runs(
        {CONTROL.name: [0.02, -0.02] * 4, lower.name: [-0.05] * 8, near.name: [-0.04] * 8, higher.name: [0.08] * 8}
    )
    table = {row["arm"]: row for row in sensitivity.judged(found, [lower, near, higher])}
    assert [table[c.name]["seen"] for c in (CONTROL, lower, near, higher)] == [False, True, False, False]
    assert table[lower.name]["mean"] == pytest.approx(-0.05)
    assert table[CONTROL.name]["sd"] == pytest.approx(0.0214, abs=1e-4)
    assert table[lower.name]["in_control_sds"] == pytest.approx(-2.34, abs=0.01)


def test_a_contrast_of_fewer_seeds_is_paired_with_those():
    found = runs({CONTROL.name: [0.02, -0.02] * 4, PLANTED[0].name: [-0.1, -0.2]})
    row = sensitivity.judged(found, PLANTED[:1])[1]
    assert (row["seeds"], row["mean"]) == (2, pytest.approx(-0.15))


def test_the_command_runs_every_arm_of_every_seed_prints_a_table_and_writes_what_it_found(
    tmp_path, monkeypatch, capsys
):
    asked, ended = [], runs({CONTROL.name: [0.01, -0.01, 0.0], PLANTED[0].name: [-0.3, -0.3]})

    def made_up(arm, seed, base, cache):
        asked.append((arm.name, seed))
        return next(each for each in ended if (each["arm"], each["seed"]) == asked[-1]) | {"curves": {}}

    monkeypatch.setattr(sensitivity, "run", made_up)
    monkeypatch.setattr(sensitivity, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(sensitivity, "worker_context", lambda: None)
    words = ["--seeds", "1", "2", "--control-seeds", "3", "--only", "third", "--json", str(tmp_path / "found.json")]
    assert sensitivity.main(words) == 0
    assert len(set(asked)) == len(asked) == 3 * 2 + 2
    assert f"| {PLANTED[0].name} | down | 2 | -0.300 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["contrasts"][1]["seen"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--seeds", "1"], "two seeds or more"),
        (["--set", "episodes=many"], "episodes"),
        (["--set", "episodes"], "field=value"),
        (["--seeds", "one"], "invalid int value"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(words, problem, capsys):
    assert sensitivity.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and problem in err and "Traceback" not in err
