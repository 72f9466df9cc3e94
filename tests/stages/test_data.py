"""The data stage: what each choice of a recipe does to the tokens, to the rows, and to what is measured of them."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from repro.data import embedded, tldr
from repro.data.local import load_tokenizer
from repro.detail import Recipe
from repro.details import BLIND_SPOT, PROMPTS, REWARD_SOURCE
from repro.errors import UserError
from repro.ops import prompt
from repro.stages import data
from repro.stages.corpus import Corpus
from repro.stages.stage import RESULT, Budget, StageContext
from tests.tiny import pick

LENGTHS = tldr.Lengths(query=26, reference=6, query_reference=34, pair_response=10, query_pair=40)
CUE = ["TL", ";", "DR", ":"]
HEAD = "SUBREDDIT : Ġr / work Ċ Ċ TITLE : Ġmy Ġboss Ċ Ċ POST : Ġi Ġam Ġsad .".split()
EOS, PAD = "<|endoftext|>", "[PAD]"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file):
    return load_tokenizer(tokenizer_file)


def post(text="i am sad.", summary="my boss broke it.", **fields):
    return {"id": "p1", "subreddit": "work", "title": "my boss", "post": text, "summary": summary, **fields}


def pair(chosen=" i feel sad.", rejected=" my boss broke my laptop in boston."):
    summaries = [{"text": chosen, "policy": "a"}, {"text": rejected, "policy": "b"}]
    return {"info": post(), "summaries": summaries, "choice": 0, "batch": "b0", "split": "train"}


def words(row, name, tokenizer):
    """The tokens of a column of one row, spelled out, without padding."""
    return [word for word in tokenizer.convert_ids_to_tokens(row[name]) if word != PAD]


def encoded(tokenizer, text, lengths=LENGTHS, **choices):
    """One post or comparison under the paper's format but for `choices`."""
    encode = tldr.encode_pairs if "info" in text else tldr.encode_posts
    return encode([text], tokenizer, lengths, tldr.Format(**choices))


# ----------------------------------------------------------------------------- tokens, counted by hand


def test_the_papers_prompt_and_reference(tokenizer):
    row = encoded(tokenizer, post())[0]
    assert words(row, "query_token", tokenizer) == [*HEAD, "Ċ", "Ċ", *CUE]
    reference = ["Ġmy", "Ġboss", "Ġbroke", "Ġit", ".", EOS]
    assert words(row, "reference_response_token", tokenizer) == reference
    assert words(row, "query_reference_response_token", tokenizer) == [*HEAD, "Ċ", "Ċ", *CUE, *reference]
    assert row["query_token"][0] == tokenizer.pad_token_id
    assert not row["cut"]


def test_a_trailing_space_is_one_token_of_the_prompt_and_none_of_the_joint_text(tokenizer):
    paper = encoded(tokenizer, post())[0]
    row = encoded(tokenizer, post(), end_prompt=prompt.end_with_space)[0]
    assert words(row, "query_token", tokenizer) == [*HEAD, "Ċ", "Ċ", *CUE, "Ġ"]
    assert row["query_reference_response_token"] == paper["query_reference_response_token"]
    assert row["reference_response_token"] == paper["reference_response_token"]


def test_a_trailing_space_takes_its_room_from_the_post(tokenizer):
    tight = replace(LENGTHS, query=len(HEAD) + 2 + len(CUE))
    assert not encoded(tokenizer, post(), tight)[0]["cut"]
    row = encoded(tokenizer, post(), tight, end_prompt=prompt.end_with_space)[0]
    assert row["cut"]
    assert words(row, "query_token", tokenizer)[-1] == "Ġ"


def test_a_prompt_that_is_cut_hard_keeps_its_first_tokens_and_loses_its_cue(tokenizer):
    long = post("i am sad.\n" + "i feel sad. " * 3)
    row = encoded(tokenizer, long, shorten=prompt.first_tokens)[0]
    kept = [*HEAD, "Ċ", "i", "Ġfeel", "Ġsad", ".", "Ġi", "Ġfeel"]  # 19 and 7
    assert words(row, "query_token", tokenizer) == kept
    assert words(row, "query_reference_response_token", tokenizer)[: len(kept) + 1] == [*kept, "Ġmy"]
    assert row["cut"]
    paper = encoded(tokenizer, long)[0]
    assert words(paper, "query_token", tokenizer) == [*HEAD, "Ċ", "Ċ", *CUE]
    assert paper["cut"]


def test_a_post_that_is_too_long_is_left_out_with_its_facts(tokenizer):
    posts = [
        post(f"i am sad.{end}", facts={"place": place}) for place, end in enumerate(["", "\n" + "i feel sad. " * 3, ""])
    ]
    rows = tldr.encode_posts(posts, tokenizer, LENGTHS, tldr.Format(shorten=prompt.left_out))
    assert [json.loads(facts)["place"] for facts in rows["facts"]] == [0, 2]
    assert rows["cut"][:] == [False, False]
    assert len(tldr.encode_posts(posts[1:2], tokenizer, LENGTHS, tldr.Format(shorten=prompt.left_out))) == 0


def test_a_comparison_whose_post_is_too_long_is_left_out_too(tokenizer):
    long = pair() | {"info": post("i feel sad. " * 9), "batch": "long"}
    rows = tldr.encode_pairs([long, pair(), long], tokenizer, LENGTHS, tldr.Format(shorten=prompt.left_out))
    assert rows["batch"][:] == ["b0"]


@pytest.mark.parametrize("shorten", [prompt.first_tokens, prompt.left_out])
def test_how_a_post_is_shortened_does_not_matter_where_all_fit(tokenizer, shorten):
    paper, other = encoded(tokenizer, post()), encoded(tokenizer, post(), shorten=shorten)
    assert other[0] == paper[0]


def test_without_its_space_a_completion_starts_with_other_tokens(tokenizer):
    bare = ["m", "y", "Ġboss", "Ġbroke", "Ġit", "."]
    row = encoded(tokenizer, post(), start_completion=prompt.start_without_space)[0]
    assert words(row, "reference_response_token", tokenizer) == bare
    assert words(row, "query_reference_response_token", tokenizer) == [*HEAD, "Ċ", "Ċ", *CUE, *bare, EOS]
    row = encoded(tokenizer, pair(), start_completion=prompt.start_without_space)[0]
    assert words(row, "chosen_token", tokenizer) == ["i", "Ġfeel", "Ġsad", ".", EOS]
    assert words(row, "query_chosen_token", tokenizer)[-6:] == [":", "i", "Ġfeel", "Ġsad", ".", EOS]


def test_nothing_ends_where_no_end_of_text_is_appended(tokenizer):
    open_end = {"end_completion": prompt.end_open}
    row = encoded(tokenizer, post(), **open_end)[0]
    assert words(row, "reference_response_token", tokenizer) == ["Ġmy", "Ġboss", "Ġbroke", "Ġit", "."]
    assert words(row, "query_reference_response_token", tokenizer)[-2:] == ["Ġit", "."]
    row = encoded(tokenizer, pair(), **open_end)[0]
    assert words(row, "query_chosen_token", tokenizer)[-3:] == ["Ġfeel", "Ġsad", "."]
    assert words(row, "rejected_token", tokenizer)[-2:] == ["Ġboston", "."]


def test_one_short_limit_takes_the_end_of_a_longer_summary_and_leaves_a_shorter_one(tokenizer):
    row = encoded(tokenizer, pair(), limit_summary=prompt.summary_up_to)[0]
    paper = encoded(tokenizer, pair())[0]
    for name in ("chosen_token", "query_chosen_token"):
        assert row[name] == paper[name]
    cut = ["Ġmy", "Ġboss", "Ġbroke", "Ġmy", "Ġlaptop", "Ġin"]
    assert words(row, "rejected_token", tokenizer) == cut
    assert words(row, "query_rejected_token", tokenizer) == [*HEAD, "Ċ", "Ċ", *CUE, *cut]
    assert words(paper, "query_rejected_token", tokenizer)[-3:] == ["Ġboston", ".", EOS]


def test_a_shared_limit_that_is_long_enough_for_all_changes_nothing(tokenizer):
    long = replace(LENGTHS, reference=9)
    assert words(encoded(tokenizer, pair(), long)[0], "rejected_token", tokenizer)[8:] == [EOS]
    assert (
        encoded(tokenizer, pair(), long, limit_summary=prompt.summary_up_to)[0] == encoded(tokenizer, pair(), long)[0]
    )


# ----------------------------------------------------------------------------- the stage


def made(scale, out, **choices):
    """The data stage's artefact and its metrics for an arm given by names."""
    out.mkdir()
    work = StageContext("data", pick("data", **choices), Budget(scale, data.STAGE.fields), "float32", 0, {}, out)
    data.STAGE.run(work)
    return Corpus(out), json.loads((out / RESULT).read_text())["metrics"]


@pytest.fixture(scope="module")
def some_scale(tiny_scale):
    """Enough posts that some are too long, and some summaries too."""
    return replace(tiny_scale, posts=60, test_posts=40, comparisons=60, validation_comparisons=30)


@pytest.fixture(scope="module")
def local_scale(tiny_scale, tmp_path_factory):
    """The same corpus as files: 120 posts, and comparisons of both kinds."""
    folder = tmp_path_factory.mktemp("files")
    posts = embedded.make_posts(120, 5, "files")
    pairs = embedded.make_comparisons(posts, 60, 5, "train") + embedded.make_comparisons(posts, 30, 5, "valid2")
    rows = {"posts": [{k: v for k, v in post.items() if k != "facts"} for post in posts], "comparisons": pairs}
    for name, values in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    return replace(
        tiny_scale,
        corpus="local",
        posts_file=folder / "posts.jsonl",
        comparisons_file=folder / "comparisons.jsonl",
        posts=40,
        comparisons=50,
        validation_comparisons=20,
    )


@pytest.fixture(scope="module", params=["embedded", "local"])
def scale(request, some_scale, local_scale):
    return {"embedded": some_scale, "local": local_scale}[request.param]


@pytest.fixture(scope="module")
def paper(scale, tmp_path_factory):
    return made(scale, tmp_path_factory.mktemp("data") / "paper")


def test_what_is_measured_is_what_was_written(paper, scale):
    corpus, measured = paper
    rows = corpus.posts("train")
    assert measured["data/train_posts"] == len(rows) == scale.posts
    lengths = [sum(token != corpus.pad for token in row) for row in rows["query_token"]]
    assert measured["data/train_query_tokens_mean"] == pytest.approx(sum(lengths) / len(rows))
    lengths = [sum(token != corpus.pad for token in row) for row in rows["reference_response_token"]]
    assert measured["data/train_reference_tokens_mean"] == pytest.approx(sum(lengths) / len(rows))
    assert measured["data/train_cut_queries"] == sum(rows["cut"]) / len(rows) > 0
    ends = [corpus.eos in row for row in rows["query_reference_response_token"]]
    assert measured["data/train_references_without_eos"] == pytest.approx(ends.count(False) / len(rows))


def test_the_paper_has_no_prompts_apart_from_sfts_and_is_made_the_same_twice(paper, scale, tmp_path):
    corpus, _ = paper
    again, measured = made(scale, tmp_path / "again")
    for split in ("train", "validation", "test"):
        assert again.posts(split)[:] == corpus.posts(split)[:]
    assert again.pairs("train")[:] == corpus.pairs("train")[:]
    assert not (tmp_path / "again" / "posts" / "prompts").exists()
    assert "data/prompts_posts" not in measured


def test_posts_left_out_are_counted_and_the_others_are_as_they_were(paper, scale, tmp_path):
    corpus, before = paper
    short, after = made(scale, tmp_path / "drop", truncation="drop_post")
    for split in ("train", "test"):
        fitting = [row for row in corpus.posts(split) if not row["cut"]]
        assert list(short.posts(split)) == fitting
        assert after[f"data/{split}_posts"] == len(fitting)
        assert after[f"data/{split}_cut_queries"] == before[f"data/{split}_cut_queries"]
    assert after["data/train_comparisons"] == len(short.pairs("train")) < len(corpus.pairs("train"))


def test_a_hard_cut_changes_the_posts_that_were_too_long_and_no_other(paper, scale, tmp_path):
    corpus, before = paper
    hard, after = made(scale, tmp_path / "hard", truncation="hard_cut")
    for old, new in zip(corpus.posts("train"), hard.posts("train"), strict=True):
        assert (old["query_token"] != new["query_token"]) == old["cut"] == (not new["query"].endswith("TL;DR:"))
        assert (old["id"], old["facts"]) == (new["id"], new["facts"])
    assert after["data/train_cut_queries"] == before["data/train_cut_queries"]


def test_a_trailing_space_leaves_what_is_trained_on_as_it_was(paper, scale, tmp_path):
    corpus, _ = paper
    spaced, _ = made(scale, tmp_path / "space", prompt_end="trailing_space")
    space = corpus.tokenizer.convert_tokens_to_ids("Ġ")
    for old, new in zip(corpus.posts("train"), spaced.posts("train"), strict=True):
        assert new["query_token"][-1] == space
        if not new["cut"]:
            assert new["query_reference_response_token"] == old["query_reference_response_token"]


def test_without_an_end_of_text_no_row_has_one(paper, scale, tmp_path):
    _, measured = made(scale, tmp_path / "open", eos="not_appended")
    assert {value for name, value in measured.items() if name.endswith("without_eos")} == {1.0}
    _, before = paper
    assert all(value < 0.7 for name, value in before.items() if name.endswith("without_eos"))


def test_a_short_limit_takes_more_ends_of_text(paper, scale, tmp_path):
    _, before = paper
    _, after = made(scale, tmp_path / "short", response_limit="shared")
    for split in ("train", "validation"):
        assert after[f"data/{split}_pairs_without_eos"] > before[f"data/{split}_pairs_without_eos"]
        assert after[f"data/{split}_references_without_eos"] == before[f"data/{split}_references_without_eos"]


def test_an_iid_split_has_the_same_comparisons_on_other_sides(paper, scale, tmp_path):
    corpus, before = paper
    mixed, after = made(scale, tmp_path / "mixed", preference_split="iid")

    def rows(corpus, split):
        return [(row["id"], row["chosen"], row["rejected"]) for row in corpus.pairs(split)]

    for split in ("train", "validation"):
        assert after[f"data/{split}_comparisons"] == before[f"data/{split}_comparisons"]
    both = [Counter(rows(some, "train") + rows(some, "validation")) for some in (corpus, mixed)]
    assert both[0] == both[1]
    assert set(corpus.pairs("validation")["split"]) == {"valid2"}
    assert set(mixed.pairs("validation")["split"]) == set(mixed.pairs("train")["split"]) == {"train", "valid2"}
    assert mixed.posts("train")[:] == corpus.posts("train")[:]


def test_annotators_with_a_blind_spot_compare_the_same_texts_and_prefer_inventions_more_often(some_scale, tmp_path):
    clear, blind = (
        made(some_scale, tmp_path / label, blind_spot=label)[0].pairs("train") for label in ("none", "inventions")
    )
    assert [{row["chosen"], row["rejected"]} for row in clear] == [{row["chosen"], row["rejected"]} for row in blind]
    facts = {
        post["id"]: post["facts"] for post in embedded.make_posts(some_scale.posts, some_scale.corpus_seed, "train")
    }

    def believed(row, side):
        sceptic, believer = (
            embedded.perceived_score(facts[row["id"]], row[side], belief=belief) for belief in (0.0, 1.0)
        )
        return believer - sceptic

    changed = [row for row, before in zip(blind, clear) if row["chosen"] != before["chosen"]]
    assert changed and all(believed(row, "chosen") > believed(row, "rejected") for row in changed)


def test_disjoint_prompts_are_other_posts_and_change_no_other_split(paper, scale, tmp_path):
    corpus, _ = paper
    apart, measured = made(scale, tmp_path / "apart", prompts="disjoint")
    for split in ("train", "validation", "test"):
        assert apart.posts(split)[:] == corpus.posts(split)[:]
    others = {text for split in ("train", "validation", "test") for text in apart.posts(split)["query"]}
    prompts = apart.posts(PROMPTS.variants["disjoint"].value)
    assert not set(prompts["query"]) & others
    assert 0 < len(prompts) == measured["data/prompts_posts"] <= scale.posts


# ----------------------------------------------------------------------------- what is refused, and the probe


def test_local_prompts_are_the_posts_that_follow_those_of_sft(local_scale, tmp_path):
    every, _ = made(replace(local_scale, posts=80), tmp_path / "every")
    apart, _ = made(local_scale, tmp_path / "apart", prompts="disjoint")
    assert apart.posts("train")["id"][:] + apart.posts("prompts")["id"][:] == every.posts("train")["id"][:]


def test_no_posts_left_for_prompts_are_refused_before_anything_is_made(local_scale):
    arm = Recipe().but(PROMPTS, "disjoint")
    data.check(arm, local_scale)
    with pytest.raises(UserError, match=r"none is left for prompts; fewer posts than 120 would leave some"):
        data.check(arm, replace(local_scale, posts=120))
    data.check(Recipe(), replace(local_scale, posts=120))


@pytest.mark.parametrize(("detail", "label"), [(BLIND_SPOT, "inventions"), (REWARD_SOURCE, "gold")])
def test_what_is_known_of_the_embedded_corpus_alone_is_refused_of_another(local_scale, detail, label):
    with pytest.raises(
        UserError, match=rf"{detail.name}={label} needs the facts .* of the embedded corpus; corpus=local has neither"
    ):
        data.check(Recipe().but(detail, label), local_scale)


def test_a_split_of_which_nothing_fits_is_refused(some_scale, tmp_path):
    with pytest.raises(UserError, match=r"train: none of 60 prompts fits.*more query_tokens would keep some"):
        made(replace(some_scale, query_tokens=20), tmp_path / "none", truncation="drop_post")


def test_the_probe_is_of_the_posts_that_are_tested_on_and_differs_in_one_fact(some_scale, tmp_path):
    corpus, _ = made(some_scale, tmp_path / "probe")
    facts = {row["id"]: json.loads(row["facts"]) for row in corpus.posts("test")}
    probe = corpus.pairs("probe")
    assert probe["id"][:] == list(facts)
    for row in probe:
        right, wrong = (embedded.grade(facts[row["id"]], row[side]) for side in ("chosen", "rejected"))
        known = len(facts[row["id"]])
        assert (right.covered, right.wrong, wrong.covered, wrong.wrong) == (known, 0, known - 1, 1)
        assert facts[row["id"]][row["batch"]] in row["chosen"]
        assert facts[row["id"]][row["batch"]] not in row["rejected"].replace(" my", "")


def test_the_probe_follows_the_recipe(some_scale, tmp_path):
    corpus, measured = made(some_scale, tmp_path / "open", eos="not_appended", truncation="drop_post")
    assert corpus.pairs("probe")["id"][:] == corpus.posts("test")["id"][:]
    assert measured["data/probe_pairs_without_eos"] == 1.0


def test_where_no_facts_are_known_there_is_no_probe(local_scale, tmp_path):
    corpus, measured = made(local_scale, tmp_path / "local")
    assert corpus.has_pairs("train") and not corpus.has_pairs("probe")
    assert "data/probe_comparisons" not in measured
    assert set(corpus.posts("train")["facts"]) == {""}
