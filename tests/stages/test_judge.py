"""The judge: what is asked and read, what is paid for once, what an endpoint can do wrong, and what is never written."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import load_dict

from repro import record
from repro.__main__ import main
from repro.errors import UserError
from repro.stages import judge
from repro.stages.judge import prompt, verdicts
from repro.stages.judge.answers import EMPTY_ANSWERS, RETRIES
from repro.stages.judge.endpoint import OPENAI
from repro.study import metrics
from tests import smollm2
from tests.endpoint import endpoint, hasten, prefer_longer, summaries
from tests.recorded import points, publish, runs

KEY = "sk-a-key-that-is-nowhere-else"
GOOD = "Comparison: the first one says more.\nPreferred: A"


# ------------------------------------------------------------------------------------------------ an endpoint


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    hasten(monkeypatch)


@pytest.fixture
def answers(tmp_path):
    return judge.Answers(tmp_path / "judge")


def at(server, model="oracle", **sampling):
    return judge.judge(model, server.base_url, **{"max_completion_tokens": 64} | sampling)


def some(count):
    """Key -> question, as many as that."""
    return {str(number): prompt.question(f"post {number}", "one", "other") for number in range(count)}


def gather(who, questions, answers, threads=2, key=""):
    pytest.importorskip("openai")
    return judge.ask_all(who, key, questions, answers, threads, lambda: None)


def table(rows=4, **columns):
    """Samples: the policy's summaries are longer than the reference's, those before it shorter."""
    told = {
        "post_id": [f"t3_{row}" for row in range(rows)],
        "query": [f"SUBREDDIT: r/dogs\n\nTITLE: dog {row}\n\nPOST: it {{barks}} .\n\nTL;DR:" for row in range(rows)],
        "reference": [f"the dog {row} barks" for row in range(rows)],
        "summary": [f"the dog {row} barks at everyone" for row in range(rows)],
        "sft_summary": "a dog",
        "score": 1.0,
        "reference_score": 0.0,
    }
    return pd.DataFrame(told | columns)


def judged(reply, samples, folder, threads=4):
    with endpoint(reply) as server:
        who, answers = at(server), judge.Answers(folder)
        gather(who, judge.questions_of(who, {"run": samples}), answers, threads)
        return judge.judgement(who, samples, answers), len(server.asked)


# ------------------------------------------------------------------------------------------------ the question


def test_the_question_shows_the_post_and_both_summaries_in_both_orders():
    one, *_ = prompt.summary_pairs(table(), "summary")
    shown = {first: messages[-1]["content"] for first, messages in one.questions.items()}
    ours, reference = "the dog 0 barks at everyone", "the dog 0 barks"
    assert summaries(shown["policy"]) == (ours, reference) and summaries(shown["reference"]) == (reference, ours)
    for words in shown.values():
        assert "POST: it {barks} ." in words and "TL;DR:" not in words
        assert all(word in words for word in ("important", "Comparison:", "Preferred:"))


def test_the_same_text_twice_is_a_tie_that_nobody_is_asked_about():
    samples = table(summary=[f" the dog {row} barks\n" for row in range(4)]).drop(columns="sft_summary")
    who = judge.judge("oracle", OPENAI)
    assert judge.questions_of(who, {"run": samples}) == {}
    said = judge.judgement(who, samples, judge.Answers(Path("nowhere")))
    assert said["metrics"] == {"judge/win_rate": 0.5, "judge/tie_rate": 1.0} and said["unanswered"] == 0


def test_a_text_that_several_runs_share_is_asked_about_once():
    who = judge.judge("oracle", OPENAI)
    tables = {"one": table(), "other": table(summary="a dog")}  # what the SFT policy wrote in both
    assert len(judge.questions_of(who, tables)) == 2 * (4 + 4)


def test_an_answer_is_of_its_model_its_words_and_how_it_was_sampled():
    who, asked = judge.judge("oracle", OPENAI), prompt.question("post", "one", "other")
    others = (
        judge.judge("seer", OPENAI).key(asked),
        judge.judge("oracle", OPENAI, temperature=0.0).key(asked),
        who.key(prompt.question("post", "other", "one")),
    )
    assert len({who.key(asked), *others}) == 4
    assert judge.judge("oracle", "http://127.0.0.1:8000/v1").key(asked) == who.key(asked)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Comparison: x\nPreferred: A", "A"),
        ('Comparison: x\nPreferred: "B"', "B"),
        ("Comparison: x\n\n  preferred :  'b' . \n", "B"),
        ("**Comparison:** x\n**Preferred:** **A**", "A"),
        ("Preferred: Summary B", "B"),
        ("Preferred:\nA", "A"),
        ("Summary A is longer, B shorter.\n\nB", "B"),
        ("Preferred: A\nPreferred: a", "A"),
        ("A:\n\nA:\n\nB:\n\n", ""),  # what a small model said
        ("A\n\nB", ""),
        ("Comparison: x\n\n(b)", "B"),
        ("Preferred: A or B", ""),
        ("Preferred: A\nPreferred: B", ""),
        ("Preferred: neither", ""),
        ("Preferred: C", ""),
        ("Preferred: Apples", ""),
        ("Summary A is a better summary", ""),
        ("A\nis what I would say if I had to choose", ""),
        ("", ""),
    ],
)
def test_a_preference_is_read_as_it_is_meant_or_not_at_all(answer, letter):
    assert prompt.preference(answer) == letter


def test_the_comparison_is_read_without_the_preference():
    assert prompt.explanation('**Comparison:** "A" says\nmore.\n\n**Preferred:** A') == '"A" says\nmore.'
    assert prompt.explanation("Comparison: it ends here") == "it ends here"
    assert prompt.explanation("I like A.\nPreferred: A") == ""


# ------------------------------------------------------------------------------------------------ what it said


def test_a_judge_with_a_taste_is_heard_in_both_orders(tmp_path):
    said, asked = judged(prefer_longer, table(), tmp_path)
    assert asked == 2 * (4 + 4)
    assert said["metrics"] == {
        "judge/win_rate": 1.0,
        "judge/sft_win_rate": 0.0,
        "judge/tie_rate": 0.0,
        "judge/order_flips": 0.0,
        "judge/first_preferred": 0.5,
        "judge/unparsable": 0.0,
        "judge/reward_model_agreement": 1.0,
    }
    first = said["verdicts"][0]
    assert first["post_id"] == "t3_0" and first["win"] == 1.0 and first["sft"]["win"] == 0.0
    assert first["reference_first"] == {"preferred": "policy", "because": "one says more."}
    assert said["answered_by"] == ["oracle-0125"] and said["hosts"][0].startswith("127.0.0.1:")
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert all(metrics.known(name) for name in said["metrics"])


def test_a_judge_that_takes_the_first_ties_with_itself(tmp_path):
    said, _ = judged(lambda *_: GOOD, table(), tmp_path)
    told = said["metrics"]
    assert told["judge/win_rate"] == told["judge/sft_win_rate"] == 0.5
    assert told["judge/tie_rate"] == told["judge/order_flips"] == told["judge/first_preferred"] == 1.0
    assert "judge/reward_model_agreement" not in told  # nothing was decided


def test_an_answer_without_a_preference_counts_for_nobody(tmp_path):
    def reply(number, asked):
        return "I cannot say." if "dog 0" in summaries(asked)[0] else prefer_longer(number, asked)

    samples = table().drop(columns="sft_summary")
    said, asked = judged(reply, samples, tmp_path)
    assert asked == 8 and [row["win"] for row in said["verdicts"]] == [None, 1.0, 1.0, 1.0]
    assert said["metrics"]["judge/win_rate"] == 1.0 and said["metrics"]["judge/unparsable"] == 2 / 8
    assert "judge/sft_win_rate" not in said["metrics"]


def test_a_question_without_an_answer_counts_for_nobody_and_is_no_answer_that_could_not_be_read(tmp_path):
    samples = table(2).drop(columns="sft_summary")
    who = judge.judge("m", "http://host:1/v1", max_completion_tokens=5)
    answers = judge.Answers(tmp_path)
    for key in list(judge.questions_of(who, {"run": samples}))[:3]:
        answers.known[key] = {"key": key, "answer": GOOD, "time": "2026"}
    said = judge.judgement(who, samples, answers)
    assert said["unanswered"] == 1 and [row["win"] for row in said["verdicts"]] == [0.5, None]
    assert said["metrics"]["judge/unparsable"] == 0.0 and said["metrics"]["judge/win_rate"] == 0.5
    assert "policy_first" in said["verdicts"][1] and "reference_first" not in said["verdicts"][1]


def test_the_numbers_are_those_of_their_definitions():
    def orders(policy_first, reference_first):
        return {"policy_first": {"preferred": policy_first}, "reference_first": {"preferred": reference_first}}

    own = [
        {"win": 1.0, **orders("policy", "policy")},
        {"win": 0.0, **orders("reference", "reference")},
        {"win": 0.0, **orders("reference", "reference")},
        {"win": 0.5, **orders("policy", "reference")},
        {"win": None, **orders("policy", "")},
        {"win": 0.5},  # the same text twice
        {"win": 1.0, **orders("policy", "policy")},
        {"win": 1.0, **orders("policy", "policy")},
    ]
    # The reward model: agrees, agrees, does not, is not asked, is not asked, is not asked, ties, is no number.
    scores = [2.0, 0.0, 2.0, 2.0, 2.0, 2.0, 1.0, np.nan]
    told = verdicts.metrics(table(8, score=scores, reference_score=1.0), own, [])
    assert told == {
        "judge/win_rate": 4 / 7,
        "judge/tie_rate": 2 / 7,
        "judge/unparsable": pytest.approx(1 / 14),
        "judge/order_flips": 1 / 6,
        "judge/first_preferred": pytest.approx((3 + 2 + 2) / 12),
        "judge/reward_model_agreement": 2 / 3,
    }


# ------------------------------------------------------------------------------------------------ paid for once


def test_an_answer_is_asked_for_once(tmp_path):
    with endpoint(lambda *_: GOOD) as server:
        gather(at(server), some(5), judge.Answers(tmp_path))
        again = judge.Answers(tmp_path)
        assert len(server.asked) == 5 and again.known.keys() == some(5).keys()
        assert {record["answer"] for record in again.known.values()} == {GOOD}


def test_what_an_interrupt_left_is_used_but_for_a_line_that_was_cut_off(tmp_path):
    first = judge.Answers(tmp_path)
    for key in ("one", "other"):
        first.add({"key": key, "answer": GOOD, "time": "now"})
    first.file.write_text(first.file.read_text()[:-9])
    second = judge.Answers(tmp_path)
    assert second.known.keys() == {"one"}
    second.add({"key": "third", "answer": GOOD, "time": "now"})
    assert judge.Answers(tmp_path).known.keys() == {"one", "third"}


def test_after_a_breakdown_the_rest_is_asked(tmp_path):
    with endpoint(lambda number, _: GOOD if number < 6 else (400, "out of order")) as server:
        with pytest.raises(UserError, match="10 questions without an answer, the last: .*out of order.*goes on"):
            gather(at(server), some(40), judge.Answers(tmp_path))
        assert len(server.asked) < 40
    kept = judge.Answers(tmp_path)
    assert len(kept.known) == 6
    with endpoint(lambda *_: GOOD) as server:
        gather(at(server), {key: asked for key, asked in some(40).items() if key not in kept.known}, kept)
        assert len(server.asked) == 34 and len(judge.Answers(tmp_path).known) == 40


# ------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("bad", [(429, "slow down"), (500, "a moment"), (503, "busy"), "", "  \n"])
def test_what_passes_is_tried_again(bad, answers):
    with endpoint(lambda number, _: bad if number < 2 else GOOD) as server:
        assert gather(at(server), some(1), answers) == []
        assert len(server.asked) == 3 and answers.known["0"]["answer"] == GOOD


def test_an_endpoint_that_does_not_answer_in_time_is_asked_again(answers, monkeypatch):
    monkeypatch.setattr("repro.stages.judge.answers.TIMEOUT", 0.3)

    def slow(number, _):
        time.sleep(0.0 if number else 1.0)
        return GOOD

    with endpoint(slow) as server:
        assert gather(at(server), some(1), answers) == []
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("bad", "tries", "why"),
    [
        ((500, "broken"), 1 + RETRIES, "broken"),
        ((400, "too long"), 1, "too long"),
        ("", EMPTY_ANSWERS, "empty 3 times"),
        ("<html>welcome</html>", 1, "/v1"),
    ],
)
def test_what_does_not_pass_is_given_up_and_said(bad, tries, why, answers):
    with endpoint(lambda number, asked: bad if "post 0" in asked else GOOD) as server:
        failures = gather(at(server), some(3), answers)
        assert len(failures) == 1 and why in failures[0] and "\n" not in failures[0]
        assert answers.known.keys() == {"1", "2"} and len(server.asked) == 2 + tries


def test_one_question_that_fails_is_all_of_them(answers):
    with endpoint(lambda *_: (400, "no")) as server, pytest.raises(UserError, match="1 questions without an answer"):
        gather(at(server), some(1), answers)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_ends_it_at_once_and_does_not_repeat_the_key(status, answers):
    with endpoint(lambda *_: (status, f"what is {KEY}?")) as server:
        with pytest.raises(UserError, match=r"oracle at 127.0.0.1:\d+ refuses: .*what is \*\*\*\?"):
            gather(at(server), some(50), answers, key=KEY)
        assert len(server.asked) <= 4 and server.keys[0] == f"Bearer {KEY}"


def test_who_came_without_a_key_is_told_how_to_name_one(answers):
    for status, hinted in ((401, True), (404, False)):
        with endpoint(lambda *_, status=status: (status, "no")) as server, pytest.raises(UserError) as refused:
            gather(at(server), some(1), answers)
        assert ("--key-env" in str(refused.value)) == hinted


def test_no_more_are_asked_at_once_than_was_said(answers):
    def reply(*_):
        time.sleep(0.02)
        return GOOD

    with endpoint(reply) as server:
        gather(at(server), some(30), answers, threads=3)
        assert len(server.asked) == 30 and 1 < server.most <= 3


def test_the_endpoints_own_defaults_are_kept_unless_something_else_is_asked_for(answers):
    with endpoint(lambda *_: GOOD) as server:
        gather(at(server), some(1), answers)
        gather(at(server, temperature=0.0), some(1), answers)
        plain, cold = server.asked
    assert plain.keys() == {"model", "messages", "max_completion_tokens"}
    assert cold == plain | {"temperature": 0.0}


# ------------------------------------------------------------------------------------------------ keys and addresses


def test_a_key_goes_where_it_was_meant_to_go(monkeypatch, answers):
    assert judge.api_key("http://127.0.0.1:8000/v1", "") == ""
    with pytest.raises(UserError, match="no OPENAI_API_KEY"):
        judge.api_key("", "")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MINE", " another ")
    assert judge.api_key("", "") == KEY and judge.api_key("http://127.0.0.1:8000/v1", "MINE") == "another"
    with pytest.raises(UserError, match="no THEIRS"):
        judge.api_key("", "THEIRS")
    with endpoint(lambda *_: GOOD) as server:
        gather(at(server), some(1), answers, key=judge.api_key(server.base_url, ""))
        assert server.keys == ["Bearer none"]


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000", "ftp://h/v1", "http://u:p@h/v1", "http://h/v1?key=x", "http://h:x/"]
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(address):
    with pytest.raises(UserError, match="not of the form") as refused:
        judge.judge("oracle", address)
    assert address not in str(refused.value)


def test_a_model_in_a_folder_is_told_by_its_last_part(tmp_path):
    with endpoint(prefer_longer) as server:
        who, answers = at(server, model="/home/somebody/smollm2"), judge.Answers(tmp_path)
        gather(who, judge.questions_of(who, {"run": table()}), answers)
        assert server.asked[0]["model"] == "/home/somebody/smollm2"
    said = judge.judgement(who, table(), judge.Answers(tmp_path))
    assert said["model"] == "smollm2" and said["answered_by"] == ["smollm2-0125"] and said["unanswered"] == 0
    assert "somebody" not in json.dumps(said) + "".join(file.read_text() for file in tmp_path.iterdir())


def test_openai_is_asked_unless_the_environment_or_the_command_says_otherwise(monkeypatch):
    assert judge.judge("oracle", "").host == "api.openai.com"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here:8000/v1")
    assert judge.judge("oracle", "").host == "here:8000" and judge.judge("oracle", "http://there/v1").host == "there"


def test_without_the_client_it_is_said_what_to_install(monkeypatch, answers):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[judge\]'"):
        judge.ask_all(judge.judge("oracle", OPENAI), KEY, some(1), answers, 1, lambda: None)


# ------------------------------------------------------------------------------------------------ what it costs


def test_the_cost_is_told_by_the_limit_and_then_by_the_answers_so_far(answers):
    who = judge.judge("oracle", OPENAI, max_completion_tokens=500)
    characters = sum(len(message["content"]) for message in some(1)["0"])
    before = judge.cost(who, some(8), answers)
    assert before == judge.Cost(8, round(8 * characters / 4), 4000, at_most=True)
    assert "at most 4,000 of answers" in before.words()
    used = {"prompt_tokens": characters // 5, "completion_tokens": 30, "characters": characters}
    answers.add({"key": "x", "model": "oracle", "answer": GOOD, "time": "now"} | used)
    answers.add({"key": "y", "model": "seer", "answer": GOOD, "time": "now"} | used | {"completion_tokens": 9_000})
    after = judge.cost(who, some(8), answers)
    assert after.prompt_tokens == pytest.approx(8 * characters / 5, rel=0.02)
    assert after.completion_tokens == 240 and not after.at_most


def test_a_price_is_of_a_million_tokens():
    assert "about 3.50 by the prices given" in judge.Cost(2, 2_000_000, 500_000, at_most=False).words(1.0, 3.0)


# ------------------------------------------------------------------------------------------------ from the command line


@pytest.fixture
def store(empty_store, tiny_study, tiny_cache, tmp_path, monkeypatch):
    """The tiny study, published, in a working directory of one's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    publish(tiny_study, tiny_cache)
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


def words(server, *more):
    return ["judge", "whiten_adv", "--scale", "tiny", "--model", "oracle", "--base-url", server.base_url, *more]


@pytest.fixture
def pageless(monkeypatch):
    """No page is built: another test looks at it."""
    monkeypatch.setattr("repro.cli.judge.build_and_publish", lambda *_: None)


def kept(store):
    """All that the runs say of a judge: points, artifact and tag."""
    return {
        arm: (
            [point for point in points(store, run) if point[0].startswith("judge/")],
            load_dict(f"{run.info.artifact_uri}/{record.JUDGEMENT}"),
            run.data.tags[record.JUDGEMENT_DIGEST],
        )
        for arm, run in runs(store).items()
    }


def test_a_study_is_judged_published_and_on_its_page_and_again_without_a_question(store, capsys, monkeypatch):
    pytest.importorskip("openai")
    with endpoint(prefer_longer) as server:
        assert main(words(server, "--posts", "3", "--yes")) == 0
        told, asked, first = capsys.readouterr().out, len(server.asked), kept(store)
        monkeypatch.setattr("repro.cli.judge.build_and_publish", lambda *_: None)  # once is enough
        assert main(words(server, "--posts", "3")) == 0  # nothing is left to ask, so nobody has to agree
        assert len(server.asked) == asked and kept(store) == first
    assert f"{asked} questions" in told and "0 are already answered" in told
    for values, judgement, _ in first.values():
        assert {name: value for name, _, value, _ in values} == judgement["metrics"]
        assert len(judgement["verdicts"]) == 3 and judgement["model"] == "oracle"
        win = [verdict["win"] for verdict in judgement["verdicts"]]
        assert judgement["metrics"]["judge/win_rate"] == pytest.approx(np.mean(win))
    page = Path("reports/build/whiten_adv-tiny/index.html").read_text(encoding="utf-8")
    assert "oracle (answered as oracle-0125) at 127.0.0.1" in page


def test_another_judge_takes_the_earlier_ones_place_and_the_first_can_come_back(store, pageless):
    pytest.importorskip("openai")
    with endpoint(prefer_longer) as long, endpoint(lambda *_: GOOD) as first:
        assert main(words(long, "--posts", "2", "--yes")) == 0
        before = {arm: judgement for arm, (_, judgement, _) in kept(store).items()}
        assert main([*words(first, "--posts", "2", "--yes"), "--model", "taster"]) == 0
        assert {run.data.metrics["judge/tie_rate"] for run in runs(store).values()} == {1.0}
        assert main(words(long, "--posts", "2")) == 0
    assert {arm: judgement for arm, (_, judgement, _) in kept(store).items()} == before
    for arm, run in runs(store).items():
        assert run.data.metrics["judge/win_rate"] == before[arm]["metrics"]["judge/win_rate"]


def test_nothing_is_asked_before_somebody_agreed(store, pageless, capsys, monkeypatch):
    with endpoint(prefer_longer) as server:
        assert main(words(server, "--price-in", "1", "--price-out", "4")) == 2
        told = capsys.readouterr()
        assert "by the prices given" in told.out
        assert told.err.startswith("error: there is no terminal to ask for consent") and told.err.count("\n") == 1
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda _: "n")
        assert main(words(server)) == 2
        assert main(words(server, "--price-in", "1", "--yes")) == 2
        assert server.asked == []
        pytest.importorskip("openai")
        monkeypatch.setattr("builtins.input", lambda _: "y")
        assert main(words(server, "--posts", "1")) == 0
        assert server.asked


def test_a_key_is_in_no_file_and_in_no_word(store, tmp_path, capsys, monkeypatch, caplog):
    """Of an endpoint that repeats it in answers, names and errors."""
    pytest.importorskip("openai")
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def reply(number, _):
        return (400, f"{KEY} has no right") if number == 1 else f"Comparison: {KEY} is better.\nPreferred: A"

    with endpoint(reply) as server:
        assert main(words(server, "--posts", "2", "--key-env", "JUDGE_KEY", "--yes")) == 1
        assert set(server.keys) == {f"Bearer {KEY}"}
    told = capsys.readouterr()
    assert "*** has no right" in told.err and KEY not in told.out + told.err + caplog.text
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(b"*** is better" in file.read_bytes() for file in files)
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


@pytest.mark.parametrize(
    ("more", "why"), [(["--posts", "0"], "0 is not a whole number above 0"), (["--threads", "x"], "x is not a whole")]
)
def test_a_number_that_is_none_is_refused(more, why, capsys):
    assert main(["judge", "whiten_adv", "--model", "oracle", *more]) == 2
    assert why in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ a real server


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """SmolLM2 and its tokenizer, as transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = smollm2.file()
    out = tmp_path_factory.mktemp("smollm2")
    network = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    del network.config.quantization_config  # what it was read from: as it is now it can be saved
    plain = AutoModelForCausalLM.from_config(network.config)
    plain.load_state_dict(network.state_dict())
    plain.generation_config = network.generation_config
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)
    return out


@contextmanager
def serving(folder):
    """`transformers serve` with that model, from when it answers: its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env=os.environ
        | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},  # threads that spin wait long on a busy machine
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 180
        while time.monotonic() < until and process.poll() is None:
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has nothing to save
        process.wait()


@pytest.mark.server
@pytest.mark.timeout(1_800)
def test_a_server_with_a_language_model_judges(small_model, store, pageless, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setattr("repro.stages.judge.answers.TIMEOUT", 800.0)  # what was given up would still be computed
    with serving(small_model) as base_url:
        asked = ["judge", "whiten_adv", "--scale", "tiny", "--model", str(small_model), "--base-url", base_url]
        asked += ["--posts", "1", "--max-tokens", "32", "--threads", "1"]
        assert main([*asked, "--yes"]) == 0
        assert main(asked) == 0  # all answers are there
    (file,) = Path("cache/judge").glob("*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(record["answer"].strip() and record["prompt_tokens"] > 200 for record in records)
    for _, judgement, _ in kept(store).values():
        assert judgement["unanswered"] == 0 and 0 <= judgement["metrics"]["judge/unparsable"] <= 1
        told = {record["answer"] for record in records}
        for order in (judgement["verdicts"][0][f"{first}_first"] for first in ("policy", "reference")):
            assert not order["because"] or any(order["because"] in answer for answer in told)
