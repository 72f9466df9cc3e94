"""A whole pipeline at a scale of seconds, run once a session."""

import tests.checked_shapes  # noqa: F401 - first, so that whoever imports an operation gets one that checks its shapes

# isort: split
import gc
import shutil
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import cache

import pytest
import sqlalchemy
import torch
from hypothesis import settings

from repro.detail import Recipe
from repro.details import WHITEN_ADV
from repro.engine import pipeline
from repro.stages.stage import Budget, StageContext
from repro.study.ablation import Ablation
from repro.study.scale import EMBEDDED, SCALES
from tests import blank, one_detail
from tests.paths import TESTS
from tests.steps import run_until
from tests.tiny import pick

torch.set_num_threads(1)
# A shell's background job ignores interrupts, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes says more about who else uses the machine than about the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


# Files that take minutes, the longest first: begun at the start, so that no worker is left with one at the end.
LONG = (
    "test_end_to_end.py",
    "details/test_detail.py",
    "engine/test_ranks.py",
    "engine/test_job.py",
    "engine/test_launch.py",
    "tracking/test_track.py",
    "api/test_studies.py",
    "faults/test_kills.py",
    "test_together.py",
    "test_contributing.py",
    "test_your_own_data.py",
    "stages/test_annotators.py",
    "reports/pages/test_atlas.py",
    "reports/pages/test_page.py",
    "models/test_any_model.py",
    "engine/test_atlas.py",
    "tracking/test_restarts.py",
    "reports/test_bad_input.py",
    "stages/test_judge.py",
    "tracking/test_transfer.py",
    "benchmarks/test_gpu_check.py",
    "benchmarks/test_bench.py",
    "engine/test_cost.py",
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.relative_to(TESTS).as_posix(), len(LONG)))


def keep():
    """What there is stays, so nothing in it is searched for circles: at each stage's end that takes half a second."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish():
    keep()
    gc.set_threshold(20_000)


def pytest_configure(config):
    config.addinivalue_line("markers", f"{one_detail.EVERY}: is about all details at once; --detail runs it too")
    if config.getoption("--detail"):
        config.pluginmanager.register(one_detail.OneDetail(config.getoption("--detail")))


def pytest_addoption(parser):
    parser.addoption("--detail", metavar="NAME", help="only what is about this detail, as make test-detail runs it")
    parser.addoption("--store-curves", action="store_true", help="write tests/curves anew from what the code says now")
    parser.addoption(
        "--store-counts", action="store_true", help="write tests/counted_work.json anew from what is counted now"
    )


@pytest.fixture(scope="module", autouse=True)
def kept():
    """What the files before have imported and made is not searched either."""
    keep()


@pytest.fixture(scope="session")
def tokenizer_file():
    """The shipped tokenizer: training one twice does not give the same ids."""
    return EMBEDDED / "tokenizer.json"


@pytest.fixture(scope="session")
def tiny_scale(tokenizer_file):
    """The smoke scale, with a model and a corpus that cost nothing; learning rates are high so that arms move apart.

    There are several comparisons per post, and three updates of PPO.
    """
    return replace(
        SCALES["smoke"],
        name="tiny",
        tokenizer=tokenizer_file,
        model="gpt-neox:32/1/2/64",
        posts=16,
        validation_posts=4,
        test_posts=4,
        comparisons=24,
        validation_comparisons=8,
        sft_batch=4,
        rm_batch=8,
        episodes=48,
        ppo_batch=16,
        micro_batch=8,
        rollout_batch=8,
        response_tokens=6,
        ppo_learning_rate=0.02,
    )


@pytest.fixture(scope="session")
def tiny_run(tiny_scale, tmp_path_factory):
    """The artefacts' folders, by stage, of one arm and seed at the tiny scale."""
    keep()
    return pipeline.run(Recipe(), tiny_scale, 1, tmp_path_factory.mktemp("cache"), warn=pytest.fail)


@pytest.fixture(scope="session")
def tiny_study(tiny_scale):
    """Two arms of whiten_adv, one seed."""
    arms = {label: Recipe().but(WHITEN_ADV, label) for label in ("shift_and_scale", "off")}
    return Ablation(WHITEN_ADV, "Does it matter?", arms, (1,), tiny_scale, "test/win_rate", True, 0.05)


@pytest.fixture(scope="session")
def tiny_cache(tiny_study, tmp_path_factory):
    """The artefacts of the whole study."""
    folder = tmp_path_factory.mktemp("cache")
    for recipe in tiny_study.arms.values():
        pipeline.run(recipe, tiny_study.scale, 1, folder, warn=pytest.fail)
    return folder


@pytest.fixture(scope="session", autouse=True)
def copied_tables(request, tmp_path_factory):
    """A fresh sqlite store that this process opens has its tables copied: MLflow takes seconds to make them."""
    if request.config.getoption("--detail"):  # no test of a detail opens one, and MLflow takes seconds to import
        yield
        return
    from mlflow.store.db import utils as tables

    make = tables._initialize_tables

    @cache
    def made():
        file = tmp_path_factory.mktemp("tables") / "made.db"
        engine = sqlalchemy.create_engine(f"sqlite:///{file}")
        make(engine)
        engine.dispose()
        return file

    def copy(engine):
        fresh = engine.dialect.name == "sqlite" and engine.url.database
        if not fresh or sqlalchemy.inspect(engine).get_table_names():
            return make(engine)
        with closing(sqlite3.connect(made())) as whole, closing(sqlite3.connect(engine.url.database)) as empty:
            whole.backup(empty)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_initialize_tables", copy)
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A sqlite store with its tables, for another process that would have to make them."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def own_store(empty_store, tmp_path, monkeypatch):
    """A client of an empty store of one's own, the one in use, in a working directory of one's own."""
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("REPRO_CACHE", "")
    monkeypatch.chdir(tmp_path)
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture(scope="module")
def made(tiny_scale, tmp_path_factory):
    """A cache with the data and the base of the tiny scale."""
    folder = tmp_path_factory.mktemp("made")
    run_until("base", Recipe(), tiny_scale, folder)
    return folder


@pytest.fixture
def unrendered(monkeypatch):
    """Pages whose figures are drawn and left empty, for tests that look at something else."""
    blank.instead(monkeypatch.setattr)


@pytest.fixture
def undrawn(monkeypatch):
    """A study's pages without figures, for tests that look at something else: they take most of the time."""
    blank.without_charts(monkeypatch.setattr)


@pytest.fixture
def run_stage(tiny_scale, tiny_run, tmp_path):
    """Runs one stage of the tiny pipeline for an arm given by names, `run_stage(ppo.STAGE, gamma="1")`: its folder."""

    def run(stage, **choices):
        out = tmp_path / "-".join([stage.name, *choices, *choices.values()])
        out.mkdir()
        stage.run(
            StageContext(
                stage.name,
                pick(stage.name, **choices),
                Budget(tiny_scale, stage.fields),
                tiny_scale.precision,
                seed=1,
                inputs={name: tiny_run[name] for name in stage.upstream},
                out=out,
            )
        )
        return out

    return run
