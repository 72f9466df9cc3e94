"""Commands as a page prints them: what make is given reaches the verb as the words that were recorded."""

import shlex

import pytest

from repro.reports.pages.commands import typed
from tests.stub_make import called, in_folder

RECORDED = [
    ("run whiten_adv --scale smoke --seeds 1 2 3", 'make ablation DETAIL=whiten_adv SCALE=smoke SEEDS="1 2 3"'),
    (
        "run kl_coef --arms 0 --until decided --looks 4 6",
        'make ablation DETAIL=kl_coef ARMS=0 UNTIL=decided LOOKS="4 6"',
    ),
    ("run --config config.json", "make ablation CONFIG=config.json"),
    (
        "run eos --with k=k3 --ceiling --fresh --register --set episodes=512 model=gpt-neox:32/2/4/64",
        'make ablation DETAIL=eos WITH=k=k3 SET="episodes=512 model=gpt-neox:32/2/4/64" CEILING=gold FRESH=1 REGISTER=1',
    ),
    ("run eos --set 'judge_url=http://x/$a'", "make ablation DETAIL=eos SET='judge_url=http://x/$a'"),
    ("atlas", "make atlas"),
    ("atlas eos gamma --scale smoke", 'make atlas DETAIL="eos gamma" SCALE=smoke'),
    ("calibrate --seeds 1 2", 'make calibration SEEDS="1 2"'),
]
AS_IT_IS = [
    "run_study('whiten_adv')",
    "make ablation DETAIL=whiten_adv",
    "python -m repro run eos --of-a-later-version 1",
    "python -m repro run eos --set 'posts_file=my posts.csv'",  # make would take it for two words
    "python -m repro fetch smoke",
    "python -m repro run 'unclosed",
    "not recorded",
]


@pytest.mark.parametrize(("recorded", "shown"), RECORDED)
def test_a_verb_is_typed_by_the_makefile(recorded, shown):
    assert typed(f"python -m repro {recorded}") == shown


@pytest.mark.parametrize("command", AS_IT_IS)
def test_what_the_makefile_has_no_words_for_stays_as_it_was(command):
    assert typed(command) == command


@pytest.mark.parametrize(("recorded", "shown"), RECORDED)
def test_make_asks_the_verb_for_the_recorded_words(recorded, shown, tmp_path):
    asked = called(in_folder(tmp_path / "checkout")(*shlex.split(shown)[1:]))
    assert sorted(asked[2:]) == sorted(shlex.split(recorded))
