"""What a person types after `make TARGET` reaches the program as it stands, and nothing in it is run."""

import re

import pytest

from tests.paths import ROOT
from tests.stub_make import called, in_folder

HOSTILE = (
    *(
        "x; touch ran",
        "$(touch ran)",
        "$$(touch ran)",
        "`touch ran`",
        "$(shell touch ran)",
        "a && touch ran",
        "a | touch ran",
    ),
    *("it's", 'a"b', "$HOME", "${HOME}", "*", "~", "a\\b", "#", "../../x", "ü", "-x", "> ran", "a\tb"),
)


@pytest.fixture
def make(tmp_path):
    """Runs a target in a folder with a space in its name."""
    return in_folder(tmp_path / "a folder")


def test_every_option_of_a_study_reaches_the_program(make):
    words = ["DETAIL=kl_coef", "SCALE=smoke", "SEEDS=1 2", "SET=episodes=512 posts=64", "UNTIL=decided", "LOOKS=4 6"]
    words += ["ARMS=0 0.2", "WITH=a=b", "FRESH=1", "REGISTER=1", "ENGINE=slurm", "SLURM=p=x t=1"]
    expected = "-m repro run kl_coef --scale smoke --seeds 1 2 --set episodes=512 posts=64 --until decided --looks 4 6"
    expected += " --arms 0 0.2 --with a=b --fresh --engine slurm --slurm p=x t=1 --register"
    assert called(make("ablation", *words)) == expected.split()
    assert called(make("ablation", "CONFIG=a b.json")) == ["-m", "repro", "run", "--config", "a b.json"]


@pytest.mark.parametrize("word", HOSTILE)
def test_what_is_typed_is_one_word_as_it_stands(word, make):
    assert called(make("ablation", f"DETAIL={word}"))[3] == word
    assert called(make("inspect", f"RUN={word}"))[3] == word
    assert called(make("fetch", "SCALE=x", f"TO={word}"))[3:] == ["x", "--to", word]


@pytest.mark.parametrize("word", HOSTILE)
def test_a_list_is_its_words(word, make):
    assert called(make("plan", "DETAIL=x", f"ARMS={word}"))[4:] == ["--arms", *word.split()]
    assert called(make("details", f"DETAIL={word}"))[3:] == word.split()


@pytest.mark.parametrize(
    "target, missing", [("ablation", "detail"), ("plan", "detail"), ("inspect", "run"), ("fetch", "scale")]
)
def test_what_is_missing_is_said_with_exit_code_2(target, missing, make):
    ended = make(target)
    assert ended.returncode == 2 and f"error: say which {missing}" in ended.stderr and not ended.stdout


@pytest.mark.parametrize(
    ("target", "word", "says"),
    [
        ("plan", "SCALES=smoke", "there is no variable SCALES; did you mean SCALE?"),
        ("ablation", "SEED=1 2", "there is no variable SEED; did you mean SEEDS?"),
        ("ablation", "ARM=$(touch ran)", "there is no variable ARM; did you mean ARMS?"),
        ("plan", "detail=whiten_adv", "there is no variable detail; make help shows those that there are"),
    ],
)
def test_a_variable_that_there_is_not_is_refused(target, word, says, make):
    ended = make(target, "DETAIL=whiten_adv", word)
    assert (ended.returncode, ended.stdout) == (2, "") and says in ended.stderr
    assert called(make("faults", "SEED=3")) == ["-m", "tests.faults", "--seed", "3"]


def test_every_variable_of_a_recipe_is_known():
    text = (ROOT / "Makefile").read_text()
    used = set(
        re.findall(r"\$\(value ([A-Z]+)\)|\$\(if \$\(([A-Z]+)\)|\$\(call (?:option|options),[a-z-]+,([A-Z]+)\)", text)
    )
    known = re.search(r"VARIABLES := (.*?)\nunexport", text, re.DOTALL)[1] + re.search(r"SWITCHES  := (.*)", text)[1]
    assert {name for names in used for name in names if name} <= set(re.findall("[A-Z]+", known)) | {"MEANT"}


def test_every_target_is_on_a_page_of_the_documentation():
    helped = dict(re.findall(r"^([a-z0-9-]+):.*## (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = "".join((ROOT / page).read_text() for page in ("docs/commands.md", "CONTRIBUTING.md"))
    targets = [target for target, text in helped.items() if not text.startswith("install ")]
    assert len(targets) > 25 and [target for target in targets if not re.search(rf"`make {target}\b", told)] == []
