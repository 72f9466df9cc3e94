"""The paper beside ours: its marks carry their source, and only runs of its recipe at its scales stand beside them."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from repro.reports.pages import paper
from tests.reports.made_up import Fake, log_light

OWN = {
    "test/win_rate": 0.61,
    "sft_test/win_rate": 0.33,
    "test/kl": 31.0,
    "test/length": 41.5,
    "sft_test/rouge_l": 0.249,
    "rm/validation_accuracy": 0.631,
    "rm/calibration/0.25": 0.53,
    "rm/calibration/1.75": 0.71,
    "test/gold": 3.3,
}
JUDGE = {"judge": "reward model"}


def study(uri: str, detail: str, scale: str, runs: dict[str, dict[str, float]], seeds=(1, 2, 3), **tags: str) -> None:
    """A study at a scale: arm -> values, a little more for each seed; the first arm is the reference."""
    place = MlflowClient(uri).create_experiment(f"{detail}-{scale}", tags={"detail": detail, "scale": scale})
    reference = next(iter(runs))
    for arm, values in runs.items():
        for seed in seeds:
            told = {"detail": detail, "scale": scale, "reference": str(arm == reference).lower(), "recipe": "{}"}
            told |= {} if arm == reference else {"recipe": f'{{"{detail}": "{arm}"}}'}
            log_light(
                uri, place, Fake(arm, seed, tags=told | JUDGE | tags), {k: v + seed / 100 for k, v in values.items()}
            )


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> str:
    """A store with a study of the embedded corpus alone."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('toys') / 'mlflow.db'}"
    study(uri, "toy", "mini", {"ref": OWN})
    return uri


@pytest.fixture(scope="module")
def sized(tmp_path_factory) -> str:
    """A store with runs at scales of the paper's, some of which do not have its recipe."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('sized') / 'mlflow.db'}"
    study(uri, "toy", "mini", {"ref": OWN})
    study(uri, "whiten", "pythia-1b", {"ref": OWN, "off": {"test/win_rate": 0.999}})
    study(uri, "clip", "pythia-1b", {"ref": OWN, "off": {"test/win_rate": 0.999}}, seeds=(2, 3, 4))
    study(uri, "clip", "pythia-1b-with-kl=k3", {"ref": OWN}, recipe='{"kl_estimator": "k3"}')
    study(uri, "whiten", "pythia-410m", {"ref": OWN | {"test/win_rate": math.nan}}, seeds=(1,))
    study(uri, "whiten", "pythia-6.9b-episodes=9", {"ref": OWN}, seeds=(1,))
    return uri


@pytest.fixture(scope="module")
def built(sized, tmp_path_factory) -> Path:
    return paper.build(sized, tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def html(built) -> str:
    return built.read_text()


def test_every_mark_has_a_value_or_a_range_and_says_where_it_is_from():
    marks = paper.marks()
    assert set(marks["source"]) == {"table", "figure"} and (marks["note"] != "").all()
    assert (marks["value"].notna() | marks["low"].notna() & marks["high"].notna()).all()
    assert not (marks["low"] > marks["value"]).any() and not (marks["value"] > marks["high"]).any()
    drawn = {metric for panel in paper.PANELS for metric in panel.policies} | {paper.CALIBRATION}
    assert set(marks["metric"]) == drawn and set(marks["policy"]) <= paper.SHAPES.keys()
    assert set(marks.loc[marks["policy"] != "OpenAI PPO", "size"]) == paper.SIZES.keys()


def test_the_marks_are_the_papers():
    marks = paper.marks().set_index(["metric", "policy", "size"])["value"]
    assert marks.loc["test/win_rate", "PPO", 1.0].tolist() == [0.198, 0.222, 0.538, 0.617]
    assert marks.loc["test/win_rate", "PPO", 6.9].mean() == pytest.approx(0.768, abs=0.001)
    assert marks.loc["test/win_rate", "OpenAI PPO", 1.3] == 0.70
    assert marks.loc["rm/validation_accuracy"].tolist() == [0.628, 0.669, 0.689]


@pytest.mark.parametrize(
    ("scale", "size"),
    [("pythia-1b", 1.0), ("pythia-160m", 0.16), ("pythia-2.8b", 2.8), ("pythia-6.9b-episodes=9", 6.9)],
)
def test_a_scale_names_its_size(scale, size):
    assert paper.size_of(scale) == pytest.approx(size)


@pytest.mark.parametrize("scale", ["mini", "smoke", "my-pythia-1b", "pythia-big", "pythia-1bx"])
def test_other_scales_have_none(scale):
    assert math.isnan(paper.size_of(scale))


def test_ours_are_reference_runs_of_the_papers_recipe_each_once(sized):
    own = paper.runs(sized)
    assert set(own["scale"]) == {"pythia-1b", "pythia-410m", "pythia-6.9b-episodes=9"}
    rates = own[(own["metric"] == "test/win_rate") & (own["scale"] == "pythia-1b")]
    assert dict(zip(rates["seed"], rates["value"])) == pytest.approx({1: 0.62, 2: 0.63, 3: 0.64, 4: 0.65})
    assert set(rates["policy"]) == {"PPO"} and set(rates["judge"]) == {"reward model"} and set(rates["size"]) == {1.0}
    assert "test/gold" not in set(own["metric"])  # the paper has none
    small = own[own["scale"] == "pythia-410m"]
    assert "test/win_rate" not in set(small["metric"]) and "test/kl" in set(small["metric"])  # its win rate is NaN


def test_a_calibration_is_read_by_its_bins(sized):
    own = paper.runs(sized).query("metric == 'rm/calibration' and scale == 'pythia-1b' and seed == 1")
    assert dict(zip(own["at"], own["value"])) == pytest.approx({0.25: 0.54, 1.75: 0.72})


def test_the_page_tells_sources_judges_and_scales(html):
    assert "paper, table" in html and "paper, read off a figure" in html
    assert "<code>pythia-1b</code>" in html and "the reward model:" in html
    assert "no run at a scale" not in html and "k3" not in html


def test_without_such_runs_the_marks_stand_alone_and_the_page_says_so(empty, unrendered, tmp_path):
    page = paper.build(empty, tmp_path)
    assert "no run at a scale that the paper has" in page.read_text() and paper.runs(empty).empty
    shown = pd.concat(pd.read_csv(tmp_path / "figures" / f"{name}.csv") for name in ("by_size", "calibration"))
    assert len(shown) == len(paper.marks()) and set(shown["source"]) == {"table", "figure"}


def test_the_page_stands_alone(html):
    told = re.findall(r"""(?:src|href)\s*=\s*"([^"]*)\"""", html)
    assert told and all(each.startswith(("data:", "figures/")) for each in told)


def test_figures_come_with_their_data_and_the_same_store_gives_the_same_bytes(sized, built, tmp_path):
    paper.build(sized, tmp_path)
    names = {path.name for path in (built.parent / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("by_size", "calibration") for kind in ("png", "svg", "csv")}
    for path in built.parent.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(built.parent)).read_bytes()
