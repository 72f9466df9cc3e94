"""Episodes token by token: the derived numbers, the pages' data, the terminal's view, and what bad input gets."""

import json
import math
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console

from repro.__main__ import main
from repro.errors import UserError
from repro.reports.figures import numbers
from repro.reports.pages import inspect, markup
from repro.reports.pages.tokens import QUANTITIES, flipped, policy_numbers, scale_of, scales, sft_numbers, strength
from repro.reports.reading.episodes import read_run, read_traces
from repro.reports.reading.studies import read_study
from tests.reports.made_up import ARMS, Fake, experiment, log

EOS = "<|endoftext|>"
SHORT = [" my", " neigh", "bor", " hid", " it", ".", EOS]
RECORDED = ("logprob", "ref_logprob", "updated_logprob", "value", "returns")
HOSTILE = [
    "</script>",
    "<script>alert(1)</script>",
    " <!--",
    "\n\n",
    "",
    " ",
    "\u2028",
    "\N{REPLACEMENT CHARACTER}",
    "&amp;",
]
QUERY = "SUBREDDIT: r/legal\n\nTITLE: my neighbor\n\nPOST: so my neighbor burned my guitar.\n\nTL;DR:"


def record(episode: int, tokens: list[str] = SHORT, seed: int = 0, **changed: object) -> dict:
    """An episode as PPO notes it, with made-up numbers that obey GAE at lambda 1; `changed` fields of the policy's."""
    rng, n = np.random.default_rng([seed, episode]), len(tokens)
    logprob, value = -rng.exponential(0.4, n), 1 + 0.1 * rng.standard_normal(n + 1).cumsum()
    ref = logprob - 0.3 * rng.standard_normal(n)
    reward = np.append(-0.05 * (logprob - ref), 1.4)
    returns = reward[::-1].cumsum()[::-1]
    raw = (returns - value)[:n]
    policy = {
        "text": "".join(tokens[:-1]),
        "ended": True,
        "score": 1.4,
        "kl": float((logprob - ref).sum()),
        "gold": 3.1,
        "tokens": tokens,
        "logprob": logprob.tolist(),
        "ref_logprob": ref.tolist(),
        "updated_logprob": (logprob + 0.05 * raw * rng.random(n)).tolist(),
        "value": value.tolist(),
        "reward": reward.tolist(),
        "advantage": ((raw - raw.mean()) / raw.std()).tolist(),
        "returns": returns.tolist(),
        "score_so_far": (0.2 * rng.standard_normal(n).cumsum()).tolist(),
    }
    sft = {key: policy[key] for key in ("text", "ended", "score", "tokens", "score_so_far")}
    sft |= {"logprob": ref.tolist(), "policy_logprob": logprob.tolist(), "kl": 0.0}
    place = {
        "update": episode // 64,
        "updates": 32,
        "post_id": f"t3_{episode % 64}",
        "query": QUERY,
        "reference": "short",
    }
    return {"episode": episode} | place | {"policy": policy | changed, "sft": sft}


def without(told: dict, *names: str) -> dict:
    """A record whose policy's response lacks these fields."""
    return told | {"policy": {name: value for name, value in told["policy"].items() if name not in names}}


# An update's first episodes: an ordinary one, one of hostile text, one with no number where there should be one, one
# that lacks what an older or a stopped run did not write.
EPISODES = [
    record(0),
    record(1, HOSTILE, ended=False),
    record(2, value=[math.nan, math.inf, None, 1.0, 1.0, 1.0, 1.0, 1.0]),
    without(record(3), "gold", "updated_logprob", "score_so_far", "ended") | {"sft": record(3)["sft"]},
    {name: value for name, value in record(64 * 31).items() if name != "sft"},
]


@pytest.fixture(scope="module")
def traced(store) -> str:
    """The store with a study of two arms that kept episodes, one whose file is cut off, and one that kept none."""
    client, study = MlflowClient(store), experiment(store, "traced-mini")
    for start, arm in enumerate((ARMS[0], "off"), start=1):
        run = log(store, study, Fake(arm, 7, curves=False, finals=False, tags={"detail": "traced"}), start=start)
        client.log_dict(run, {"eos": EOS, "episodes": EPISODES}, "episodes.json")
    run = log(store, study, Fake(ARMS[0], 8, curves=False, finals=False), start=10)
    client.log_text(run, '{"eos": "<|endoftext|>", "episodes": [{"epi', "episodes.json")
    log(store, study, Fake("scale_only", 7, curves=False, finals=False), start=11)
    return store


@pytest.fixture(scope="module")
def built(traced, tmp_path_factory):
    """The folder of the study's page, and the links that `build_all` gives for it."""
    out = tmp_path_factory.mktemp("built")
    return out, inspect.build_all(read_study("traced", "mini", traced), out)


@pytest.fixture(scope="module")
def html(built) -> str:
    return (built[0] / "episodes" / "seed7.html").read_text(encoding="utf-8")


def island_of(html: str) -> dict:
    """The data of a page as a browser finds it: all from its element's start to the next end of a script."""
    text = re.search(r'<script type="application/json" id="data"[^>]*>(.*?)</script', html, re.DOTALL).group(1)
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


# The numbers


def test_what_is_derived_from_what_was_recorded():
    said = record(5)["policy"]
    told, column = (
        policy_numbers(said),
        {name: np.array(value) for name, value in said.items() if name in RECORDED},
    )
    n = len(SHORT)
    np.testing.assert_allclose(told["kl"][:n], column["logprob"] - column["ref_logprob"])
    np.testing.assert_allclose(told["log_ratio"][:n], column["updated_logprob"] - column["logprob"])
    np.testing.assert_allclose(told["ratio"][:n], np.exp(column["updated_logprob"]) / np.exp(column["logprob"]))
    np.testing.assert_allclose(told["raw_advantage"], column["returns"] - column["value"])
    assert told["kl"][:n].sum() == pytest.approx(said["kl"])
    assert {len(values) for values in told.values()} == {n + 1}, "the state after the last token has a place"
    assert math.isnan(told["advantage"][n]) and told["reward"][n] == 1.4


def test_the_sft_text_is_compared_the_same_way_round():
    said = record(5)["sft"]
    told = sft_numbers(said)
    np.testing.assert_allclose(told["kl"], np.array(said["policy_logprob"]) - said["logprob"])
    np.testing.assert_array_equal(told["ref_logprob"], said["logprob"])


def test_every_quantity_that_is_shown_is_derived_for_the_policy():
    assert {each.key for each in QUANTITIES} == policy_numbers(record(0)["policy"]).keys()
    assert set(sft_numbers(record(0)["sft"])) < {each.key for each in QUANTITIES}


def test_whitening_turns_the_advantages_between_zero_and_the_mean():
    told = {
        "advantage": np.array([-1.0, 1.0, -1.0, 0.0, math.nan]),
        "raw_advantage": np.array([0.5, 2.0, -3.0, 1.0, 1.0]),
    }
    assert flipped(told) == [0]


def test_missing_numbers_are_nan_and_change_no_other():
    told, whole = policy_numbers(EPISODES[2]["policy"]), policy_numbers(record(2)["policy"])
    assert np.isnan(told["value"][[0, 2]]).all() and math.isinf(told["value"][1])
    np.testing.assert_array_equal(told["kl"], whole["kl"])
    assert np.isnan(policy_numbers(EPISODES[3]["policy"])["log_ratio"]).all()


@pytest.mark.parametrize(
    ("values", "ramp", "expected"),
    [
        ([np.r_[np.full(999, -2.0), 500.0]], "signed", (-2.0, 2.0)),
        ([np.array([math.nan, math.inf, 3.0])], "signed", (-3.0, 3.0)),
        ([np.zeros(5)], "signed", (-1.0, 1.0)),
        ([np.r_[np.zeros(999), 4.0]], "signed", (-4.0, 4.0)),
        ([], "signed", (-1.0, 1.0)),
        ([np.linspace(0, 100, 101)], "rising", (2.0, 98.0)),
        ([np.full(3, 7.0)], "falling", (7.0, 8.0)),
        ([np.array([math.nan])], "rising", (0.0, 1.0)),
    ],
)
def test_scales_are_robust_and_never_empty(values, ramp, expected):
    assert scale_of(values, ramp) == pytest.approx(expected)


def test_a_colour_is_as_strong_as_its_value_is_far():
    assert [strength(x, (-4.0, 4.0), "signed") for x in (-9.0, -1.0, 0.0, 1.0)] == [-1.0, -0.5, 0.0, 0.5]
    assert [strength(x, (-4.0, 0.0), "rising") for x in (-5.0, -4.0, -1.0, 1.0)] == [0.0, 0.0, 0.75, 1.0]
    assert [strength(x, (-4.0, 0.0), "falling") for x in (-4.0, -1.0, 0.0)] == [1.0, 0.5, 0.0]
    assert math.isnan(strength(math.nan, (-1.0, 1.0), "signed"))


def test_the_two_policies_share_a_scale():
    ends = scales([{"logprob": np.array([-1.0, -2.0]), "ref_logprob": np.array([-8.0, -9.0])}])
    assert ends["logprob"] == ends["ref_logprob"] and ends["logprob"][0] < -8


# The pages


def test_links_lead_to_the_last_update_of_each_arm_that_kept_episodes(built):
    out, links = built
    assert links == {(arm, 7): f"episodes/seed7.html#{arm}-1984" for arm in (ARMS[0], "off")}
    assert [page.name for page in (out / "episodes").iterdir()] == ["seed7.html"]


def test_an_arm_is_quoted_in_an_address():
    assert inspect.address("0.2/a b#<i>", 3) == "0.2%2Fa%20b%23%3Ci%3E-3"


def test_a_page_names_the_arms_without_episodes_and_the_updates(html):
    assert "No episodes were recorded of: scale_only." in html
    assert "updates 1 and 32 of 32" in html


def test_a_study_without_episodes_gets_no_page(study, tmp_path):
    assert inspect.build_all(study, tmp_path) == {} and not list(tmp_path.iterdir())


def test_what_a_model_wrote_cannot_leave_the_data(html):
    assert len(re.findall("<script", html)) == len(re.findall("</script", html)) == 3
    shown = island_of(html)["episodes"][1]["arms"]["off"]["policy"]
    assert shown["tokens"] == HOSTILE and not shown["ended"]
    addresses = html.replace("http://www.w3.org/2000/svg", "")
    assert "innerHTML" not in html and "http://" not in addresses and "https://" not in addresses


def test_the_numbers_of_the_page_are_those_of_the_record(html):
    data = island_of(html)
    assert data["quantities"]["reward"]["unit"] == "" and data["eos"] == EOS
    assert [arm["label"] for arm in data["arms"]] == [ARMS[0], "off"]
    assert data["posts"]["t3_0"] == [QUERY, "short"]
    for kept, shown in zip(EPISODES, data["episodes"], strict=True):
        assert (shown["episode"], shown["update"], shown["updates"]) == (kept["episode"], kept["update"] + 1, 32)
        for arm in (ARMS[0], "off"):
            said = shown["arms"][arm]["policy"]
            for name, values in policy_numbers(kept["policy"]).items():
                told = np.array(said["numbers"][name], dtype=float)
                np.testing.assert_allclose(told, np.where(np.isfinite(values), values, math.nan), rtol=1e-3)
            assert said["facts"] == pytest.approx(
                {word: kept["policy"][name] for name, word in inspect.FACTS.items() if name in kept["policy"]}, rel=1e-3
            )
            assert ("sft" in shown["arms"][arm]) == ("sft" in kept)


NUMBERS = [
    0,
    1,
    -1,
    0.5,
    0.999,
    0.9994,
    0.9996,
    1.004,
    1.006,
    12.345,
    99.994,
    99.996,
    100,
    -100.4,
    1234.5,
    1234567,
    100.5,
    101.5,
]
NUMBERS += [
    0.0001,
    0.00009999,
    0.00012345,
    0.00095,
    0.00099999,
    0.001,
    1e-5,
    -2.55e-7,
    1e-12,
    9e-13,
    3e9,
    -1.5e20,
    1.125,
    1.375,
    2.5,
    -0.0625,
]


@pytest.mark.skipif(not shutil.which("node"), reason="no node")
def test_the_page_writes_a_number_as_python_does():
    template = (markup.TEMPLATES / "episode.html.j2").read_text()
    functions = template[template.index("  const sign =") : template.index("  const strength =")]
    program = (
        f'const MINUS = "\\u2212";{functions}console.log(JSON.stringify({json.dumps(NUMBERS)}.map((x) => number(x))));'
    )
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=60, check=True)
    assert dict(zip(NUMBERS, json.loads(done.stdout))) == {x: numbers.number(x) for x in NUMBERS}


def test_the_reward_of_a_response_that_did_not_end_is_not_said_to_be_its_score():
    (reward,) = [each for each in QUANTITIES if each.key == "reward"]
    assert "of a response that did not end, what the recipe pays for it" in reward.meaning


@pytest.mark.skipif(not shutil.which("node"), reason="no node")
def test_the_page_counts_one_thing_in_the_singular_and_says_what_the_colours_of_its_bars_are():
    template = (markup.TEMPLATES / "episode.html.j2").read_text()
    (line,) = re.findall(r"  const counted = .*", template)
    program = f'{line} console.log(counted(1, "token"), "/", counted(2, "token"));'
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "1 token / 2 tokens" and "length} tokens" not in template
    assert "blue where the return is above the value" in template


def test_the_page_of_many_long_episodes_stays_small(study):
    tokens = [" word"] * 53
    episodes = [record(64 * update + row, tokens) for update in (0, 16, 31) for row in range(8)]
    runs = {arm: inspect.Trace("id", arm, "detail", arm, EOS, "sft", episodes) for arm in ("a", "b", "c", "d")}
    assert len(inspect.island(runs, dict.fromkeys(runs, "#000000"))) < 1_000_000


def test_one_run_has_a_page_that_opens_at_the_episode(traced, tmp_path):
    page = inspect.build_one(traced, "traced/off/7", 2, tmp_path)
    html = page.read_text(encoding="utf-8")
    assert page.name == f"{read_run('traced/off/7', traced).info.run_id}-2.html"
    assert 'data-start="2"' in html and [arm["label"] for arm in island_of(html)["arms"]] == ["off"]


# The terminal


def terminal(renderable, **how) -> str:
    console = Console(width=inspect.WIDTH, **how)
    with console.capture() as told:
        console.print(renderable)
    return told.get()


def test_the_listing_has_a_line_per_episode(traced):
    lines = terminal(inspect.listing(traced, "traced/off/7")).splitlines()
    assert len(lines) == 2 + len(EPISODES)
    assert lines[-1].split()[:7] == ["1984", "32", "of", "32", "1.40", lines[-1].split()[5], "7"]
    assert " no " in lines[3] and "my neighbor" in lines[3]


def test_a_terminal_shows_the_tokens_and_every_number(traced):
    told = terminal(inspect.shown(traced, "traced/off/7", 0))
    assert " my neighbor hid it." in told and "\x1b[" not in told
    rows = [line.split() for line in told.splitlines()]
    numbers = policy_numbers(EPISODES[0]["policy"])
    for place, token in enumerate(SHORT):
        row = next(row for row in rows if row[:1] == [str(place + 1)] and len(row) > 10)
        assert row[-len(QUANTITIES) :] == [inspect.number(numbers[each.key][place]) for each in QUANTITIES], token


def test_colours_are_for_terminals_that_have_them(traced):
    told = terminal(inspect.shown(traced, "traced/off/7", 0), force_terminal=True, color_system="truecolor")
    assert told.count("48;2;") > 7 * len(inspect.ROWS) // 2


def test_the_policy_that_the_kl_is_measured_to_has_its_own_name(store, tmp_path):
    client, study = MlflowClient(store), experiment(store, "against-mini")
    for start, arm in enumerate((ARMS[0], "off"), start=1):
        run = log(store, study, Fake(arm, 7, curves=False, finals=False, tags={"detail": "against"}), start=start)
        client.log_dict(run, {"eos": EOS, "episodes": [record(0)]}, "episodes.json")
        client.log_param(run, "reference_policy", "base" if arm == "off" else "sft")
    assert "log p(base)" in terminal(inspect.shown(store, "against/off/7", 0))
    assert "log p(SFT)" in terminal(inspect.shown(store, f"against/{ARMS[0]}/7", 0))
    inspect.build_all(read_study("against", "mini", store), tmp_path)
    island = island_of((tmp_path / "episodes" / "seed7.html").read_text(encoding="utf-8"))
    assert [arm["against"] for arm in island["arms"]] == ["SFT", "base"]
    assert island["quantities"]["ref_logprob"]["words"] == "log p(reference)", "the arms differ in it"
    moving = SimpleNamespace(against="moving_average")
    assert [inspect.against(each) for each in ([moving], [moving, moving])] == ["moving average"] * 2
    assert "{" not in json.dumps([list(each.values()) for each in island["quantities"].values()])


@pytest.mark.parametrize("episode", range(4))
def test_hostile_text_and_missing_numbers_are_shown(traced, episode):
    assert "advantage" in terminal(inspect.shown(traced, "traced/off/7", episode), force_terminal=True)


# What bad input gets


def test_a_run_is_found_by_its_id_the_beginning_of_it_and_its_place(traced):
    run = read_run("traced-mini/off/7", traced)
    found = [read_run(words, traced).info.run_id for words in (run.info.run_id, run.info.run_id[:20], "traced/off/7")]
    assert set(found) == {run.info.run_id}


def test_the_newest_run_of_a_place_is_meant(store):
    assert read_run("whiten_adv/off/1", store).data.metrics["test/win_rate"] == 0.74


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("traced/of/7", r"no run 'traced/of/7'.*traced-mini/off/7"),
        ("whiten/off/1", r"no run 'whiten/off/1'.*whiten_adv-mini/off/1"),
        ("", r"runs begin with ''; write more"),
    ],
)
def test_a_run_that_is_not_there_names_the_nearest(traced, words, message):
    with pytest.raises(UserError, match=message):
        read_run(words, traced)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "traced/scale_only/7",
            r"no artifact episodes.json.*with episodes: traced-mini/off/7, traced-mini/shift_and_scale/7",
        ),
        ("traced/shift_and_scale/8", r"holds no episodes that can be read.*traced-mini/off/7"),
        ("whiten_adv/off/1", r"no artifact episodes.json.*with episodes: none"),
    ],
)
def test_a_run_without_episodes_names_those_that_have_some(traced, words, message):
    with pytest.raises(UserError, match=message):
        inspect.listing(traced, words)


OTHER_SHAPES = ("[]", "{}", '{"episodes": []}', '{"episodes": [{"episode": 1, "post_id": "a"}]}', "7")


@pytest.mark.parametrize(("place", "text"), enumerate(OTHER_SHAPES))
def test_a_file_of_another_shape_is_no_episode(store, place, text):
    study = experiment(store, f"shape{place}-mini")
    run = log(store, study, Fake(ARMS[0], 1, curves=False, finals=False), start=1)
    MlflowClient(store).log_text(run, text, "episodes.json")
    with pytest.raises(UserError, match="holds no episodes that can be read"):
        inspect.listing(store, run)


def test_runs_that_can_be_read_are_read_beside_those_that_cannot(traced):
    assert set(read_traces(read_study("traced", "mini", traced))) == {(ARMS[0], 7), ("off", 7)}


def test_the_command_line_writes_the_page_and_says_what_it_does_not_have(traced, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", traced)
    assert main(["inspect", "traced/off/7", "--episode", "2"]) == 0
    told = capsys.readouterr().out
    path = told.splitlines()[-1].removeprefix("page: ")
    rows = [line.split() for line in told.splitlines() if re.match(r" +\d+ +'", line)]
    assert len(rows) == len(SHORT)
    numbers = policy_numbers(EPISODES[2]["policy"])
    assert rows[3][-len(QUANTITIES) :] == [inspect.number(numbers[each.key][3]) for each in QUANTITIES]
    assert (tmp_path / path).is_file() and path.startswith("reports/build/episodes/")
    assert main(["inspect", "traced/off/7"]) == 0
    assert "1984" in capsys.readouterr().out
    for words, message in (
        (
            ["inspect", "traced/off/7", "--episode", "5"],
            "episode 5 of off-seed7 was not recorded; recorded are 0, 1, 2, 3, 1984",
        ),
        (["inspect", "traced/scale_only/7", "--episode", "0"], "has no artifact episodes.json"),
        (["inspect", "traced/off/7", "--episode", "x"], "x is not the number of an episode: 0 or more"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
