"""What is typed wrong, and files that are named by it, get one sentence and exit code 2; nothing is made and nothing lost."""

import pytest

from repro.__main__ import main
from tests.bad_input import budgets, schedules, services, studies, verbs
from tests.bad_input.case import check_sentence, fill, tree


@pytest.mark.parametrize(
    "case", [*verbs.CASES, *budgets.CASES, *schedules.CASES, *studies.CASES, *services.CASES], ids=str
)
def test_it_is_told_in_a_sentence_and_leaves_nothing(case, place, monkeypatch, capsys):
    monkeypatch.setattr("repro.engine.slurm.engine.which", lambda _: None)  # whatever this machine has
    fill(place, case.files)
    for name, value in case.env.items():
        monkeypatch.setenv(name, value)
    before = tree(place)
    assert main(case.words) == 2
    check_sentence(capsys.readouterr().err, case.says, place)
    assert tree(place) == before
