"""Studies: what a file declares, what is given instead, and what a person is told when it is wrong."""

import pytest

from repro.details import DETAILS
from repro.errors import UserError
from repro.study import ablation
from repro.study.scale import SCALES
from tests.paths import ROOT

SHIPPED = ROOT / "ablations"


@pytest.fixture
def load(tmp_path, tokenizer_file):
    """Write a file of ablations/ and load it: load(text, ...) -> the study."""

    def load(text, *arguments, changes={}, **more):
        (tmp_path / "study.toml").write_text(text)
        changes = {"tokenizer": str(tokenizer_file), **changes}
        return ablation.load("study", *arguments, changes=changes, folder=tmp_path, **more)

    return load


@pytest.mark.parametrize("name", DETAILS)
def test_every_detail_is_a_study_without_a_file(name, tokenizer_file, tmp_path):
    study = ablation.load(name, "smoke", changes={"tokenizer": str(tokenizer_file)}, folder=tmp_path)
    assert list(study.arms)[0] == study.detail.reference and study.arms.keys() == study.detail.variants.keys()
    assert study.arms[study.detail.reference].choices == ()
    assert (study.seeds, study.primary, study.question) == ((1, 2), "test/sampled_win_rate", study.detail.question)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_study_is_valid(path, tokenizer_file):
    study = ablation.load(path.stem, changes={"tokenizer": str(tokenizer_file)}, folder=SHIPPED)
    assert len(study.arms) > 1 and len(study.seeds) > 1


@pytest.mark.parametrize("name", ["../study", "../folder/study", "/etc/study", "{folder}/study", "..", "."])
def test_a_name_with_a_path_in_it_reads_no_file(name, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "study.toml").write_text('detail = "whiten_adv"\n')
    name = name.format(folder=folder)
    assert ablation.has_file("study", folder) and not ablation.has_file(name, folder)
    with pytest.raises(UserError, match="there is no detail"):
        ablation.load(name, folder=folder)
    assert ablation.names(name, folder=folder) == (name, "mini")


def test_what_declares_a_study_is_told_in_a_clause(tmp_path):
    (tmp_path / "kl_coef.toml").write_text('detail = "kl_coef"\n')
    assert ablation.source("kl_coef", tmp_path) == f"declared in {tmp_path}/kl_coef.toml"
    assert ablation.source("gamma", tmp_path) == "no file in ablations/: the study that the declaration implies"


def test_a_file_declares_and_what_is_given_overrides_it(load):
    text = (
        'detail = "kl_coef"\nquestion = "How much?"\nscale = "smoke"\nseeds = [7, 8, 9]\narms = ["0.1", "0"]\n'
        'primary = "test/kl"\nhigher_is_better = false\nsmallest_effect = 1\n'
    )
    study = load(text)
    assert list(study.arms) == ["0.05", "0.1", "0"]  # the reference first, though it is not listed
    assert (study.seeds, study.scale.name, study.primary) == ((7, 8, 9), "smoke", "test/kl")
    assert (study.higher_is_better, study.smallest_effect, study.question) == (False, 1.0, "How much?")
    given = load(text, "mini", ["3", "4"], changes={"episodes": "128"})
    assert (given.seeds, given.scale.name, given.scale.episodes) == ((3, 4), "mini-episodes=128", 128)


WRONG = {
    "detail = ": r"study\.toml is not valid TOML: .*at ",
    'detail = "whiten_adv"\nseeds = [1': r"study\.toml is not valid TOML: .*at ",
    'detail = "whiten_adv"\nseeds = 1 2': r"study\.toml is not valid TOML: .*line 2",
    'detail = "whiten_advs"': "no detail 'whiten_advs'; did you mean 'whiten_adv'",
    "detail = 3": "study.toml: detail = 3 has the wrong type",
    "seeds = [1]": "study.toml: the field detail is missing",
    'detail = "whiten_adv"\nseed = [1]': "study.toml: there is no field 'seed'; did you mean 'seeds'",
    'detail = "whiten_adv"\narms = ["of"]': "no variant 'of'; did you mean 'off'",
    'detail = "whiten_adv"\narms = [1]': "no variant '1'",
    'detail = "whiten_adv"\narms = ["shift_and_scale"]': "shift_and_scale is the reference .* name one: scale_only, off",
    'detail = "whiten_adv"\nscale = "smok"': "no scale 'smok'; did you mean 'smoke'",
    'detail = "whiten_adv"\nseeds = [1, "b"]': "are not all integers",
    'detail = "whiten_adv"\nseeds = [1.5]': "are not all integers",
    'detail = "whiten_adv"\nseeds = []': "there are no seeds",
    'detail = "whiten_adv"\nseeds = [1, 2, 1]': "seeds 1 2 1 repeat",
    'detail = "whiten_adv"\nsmallest_effect = 0': "smallest_effect = 0.0 must be above 0",
    'detail = "whiten_adv"\nsmallest_effect = nan': "smallest_effect = nan must be above 0",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_told_in_one_line(load, text):
    with pytest.raises(UserError, match=WRONG[text]) as told:
        load(text)
    assert "\n" not in str(told.value)


def test_a_file_that_is_no_text_is_told(tmp_path):
    (tmp_path / "study.toml").write_bytes(b'detail = "\xff"')
    with pytest.raises(UserError, match=r"study\.toml is not valid TOML"):
        ablation.load("study", folder=tmp_path)


def test_seeds_are_not_a_budget(load):
    with pytest.raises(UserError, match="--seeds 1 2 3"):
        load('detail = "whiten_adv"', changes={"seeds": "1,2"})


# ------------------------------------------------------------------------------------------ that grows until it is decided


def test_a_study_that_grows_takes_its_seeds_from_its_looks(load):
    text = 'detail = "kl_coef"\nscale = "smoke"\nseeds = [7, 8]\n'
    assert (load(text).seeds, load(text).looks) == ((7, 8), ())
    study = load(text, until="decided")
    assert study.looks == ablation.LOOKS and study.seeds == tuple(range(1, ablation.LOOKS[-1] + 1))
    assert load(text + "looks = [3, 5]\n", until="decided").looks == (3, 5)
    assert load(text + "looks = [3, 5]\n", until="decided", looks=["4", "9"]).looks == (4, 9)
    assert load(text + "looks = [3, 5]\n").looks == ()


def test_a_look_needs_the_reference_and_what_is_undecided_on_its_seeds(load):
    study = load('detail = "kl_coef"\nscale = "smoke"\n', until="decided")
    part = study.at(6, ["0.2"])
    assert list(part.arms) == ["0.05", "0.2"] and part.seeds == (1, 2, 3, 4, 5, 6) and part.looks == study.looks


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"until": "decide"}, "--until 'decide' is not known; give --until decided"),
        ({"looks": ["4"]}, "add --until decided"),
        ({"until": "decided", "looks": ["4", "b"]}, "looks '4 b' are not all integers"),
        ({"until": "decided", "looks": ["2", "4"]}, "the first at least 3"),
        ({"until": "decided", "looks": ["4", "4"]}, "must be growing"),
        ({"until": "decided", "looks": ["6", "4"]}, "must be growing"),
        ({"until": "decided", "seeds": ["1", "2"]}, "leave --seeds out"),
    ],
    ids=str,
)
def test_a_schedule_that_makes_no_sense_is_told(load, given, says):
    with pytest.raises(UserError, match=says) as told:
        load('detail = "kl_coef"\nscale = "smoke"\n', **given)
    assert "\n" not in str(told.value)


# --------------------------------------------------------------------------------------- with shared choices, and in an atlas


def test_company_is_kept_by_all_arms_and_makes_another_study(load):
    study = load('detail = "gamma"\nscale = "smoke"\narms = ["0.99"]\n[with]\nwhiten_adv = "off"\n')
    assert study.arms["1"].choices == (("whiten_adv", "off"),)
    assert study.arms["0.99"].choices == (("gamma", "0.99"), ("whiten_adv", "off"))
    assert study.scale.name == "smoke+whiten_adv=off"
    given = load('detail = "gamma"\nscale = "smoke"\n[with]\nwhiten_adv = "off"\n', shared={"whiten_adv": "scale_only"})
    assert given.arms["1"].choices == (("whiten_adv", "scale_only"),)


def test_the_report_finds_a_study_in_company_by_the_same_name(load, tmp_path):
    study = load('detail = "gamma"\nscale = "smoke"\n[with]\nwhiten_adv = "off"\n')
    changes = {"tokenizer": "anywhere"}
    assert ablation.names("study", changes=changes, folder=tmp_path) == ("gamma", study.scale.name)


def test_a_recorded_study_has_the_scale_of_its_file_unless_another_is_named(load, tmp_path):
    study = load('detail = "gamma"\nscale = "smoke"\n[set]\nepisodes = 256\n')
    assert study.scale.name == "smoke-episodes=256"
    assert ablation.recorded("study", folder=tmp_path) == ("gamma", "smoke-episodes=256")
    assert ablation.recorded("study", "mini", tmp_path) == ("gamma", "mini")
    assert ablation.recorded("gamma", folder=tmp_path) == ("gamma", "mini")
    assert ablation.recorded("of_another_version", "old", tmp_path) == ("of_another_version", "old")


def test_company_that_makes_no_sense_is_refused_by_name_with_the_reason(load):
    with pytest.raises(
        UserError, match="kl_placement=none and kl_coef=0.* make no sense together: there is no KL term"
    ):
        load('detail = "kl_coef"\nscale = "smoke"\n[with]\nkl_placement = "none"\n')
    with pytest.raises(UserError, match="gamma is what the study varies"):
        load('detail = "gamma"\nscale = "smoke"\n[with]\ngamma = "0.99"\n')
    with pytest.raises(UserError, match="no detail 'gama'; did you mean 'gamma'"):
        load('detail = "kl_coef"\nscale = "smoke"\n[with]\ngama = "0.99"\n')


def test_company_that_the_reference_keeps_anyway_is_none(load):
    study = load('detail = "gamma"\nscale = "smoke"\n', shared={"whiten_adv": "shift_and_scale"})
    assert (study.scale.name, study.arms["1"].choices) == ("smoke", ())


def test_arms_can_be_given(load):
    assert list(load('detail = "kl_coef"\nscale = "smoke"\n', arms=["0.2"]).arms) == ["0.05", "0.2"]
    with pytest.raises(UserError, match="kl_coef has no variant '3'"):
        load('detail = "kl_coef"\nscale = "smoke"\n', arms=["3"])


@pytest.mark.parametrize("name", DETAILS)
def test_the_atlas_runs_every_variant_at_the_scales_own_budget(name):
    study = ablation.in_atlas(name, "mini", ["5", "6"])
    assert study.arms.keys() == study.detail.variants.keys() and list(study.arms)[0] == study.detail.reference
    assert (study.scale, study.seeds) == (SCALES["mini"], (5, 6))
