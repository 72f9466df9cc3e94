"""Where models and data come from: references, the cache and what is refused, the authors' checkpoints, and `fetch`."""

import hashlib
import json
import re
from dataclasses import replace

import huggingface_hub
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save, save_file
from transformers import AutoModel, GPTNeoXConfig

from repro.__main__ import main
from repro.data import embedded, tldr
from repro.data.local import load_tokenizer
from repro.detail import Recipe
from repro.details import WHITEN_ADV
from repro.engine import artefacts, fetch, pipeline
from repro.engine.dag import check_starts, dag_of
from repro.errors import UserError
from repro.models import hub, modes, pretrained, scoring, starts
from repro.stages import base, data, stage
from repro.stages.corpus import Corpus
from repro.study.ablation import Ablation
from repro.study.scale import SCALES, find
from tests import mirror
from tests.mirror import COMMIT
from tests.tiny import SHAPE

MODEL = f"hub:them/net@{COMMIT}"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The library's folder, empty, without a network."""
    mirror.use(monkeypatch, tmp_path / "home")
    return tmp_path / "home"


def refused(message):
    """Expects a one-line UserError that holds the message, which is text and not a pattern."""
    return pytest.raises(UserError, match=rf"\A.*{re.escape(message)}.*\Z")


# ----------------------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("hub:a/b@main", hub.Reference("model", "a/b", "main")),
        ("hub:a/b-1.4@step143000/x.gguf", hub.Reference("model", "a/b-1.4", "step143000", "x.gguf")),
        ("hub:datasets/a/b@v1/deep/er", hub.Reference("dataset", "a/b", "v1", "deep/er")),
        ("hub:datasets/a/b@refs/convert/parquet", hub.Reference("dataset", "a/b", "refs/convert/parquet")),
        ("hub:datasets/a/b@refs/convert/parquet/c", hub.Reference("dataset", "a/b", "refs/convert/parquet", "c")),
    ],
)
def test_a_reference_says_kind_repository_revision_and_part(text, reference):
    assert hub.parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text", ["hub:a/b", "hub:b@main", "hub:a/b@", "hub:a/b@x y", "hub:spaces/a/b@main", "a/b@main"]
)
def test_what_is_no_reference_is_refused(text):
    with refused("is no reference to the hub; write hub:OWNER/NAME@REVISION"):
        hub.parse(text)


FILES = ["config.json", "tokenizer.json", "README.md", "optimizer.pt", "onnx/config.json", "onnx/model.safetensors"]


@pytest.mark.parametrize(
    ("names", "what", "part", "wanted"),
    [
        (
            [*FILES, "model.safetensors", "pytorch_model.bin"],
            "model",
            "",
            "config.json model.safetensors tokenizer.json",
        ),
        (
            [*FILES, "pytorch_model.bin", "training_args.bin"],
            "model",
            "",
            "config.json pytorch_model.bin tokenizer.json",
        ),
        ([*FILES, "model.safetensors"], "tokenizer", "", "config.json tokenizer.json"),
        (FILES, "model", "onnx", "onnx/config.json onnx/model.safetensors"),
        ([*FILES, "x.gguf"], "model", "x.gguf", "x.gguf"),
        (["data/train-0.parquet", "train.jsonl", "README.md"], "data", "", "data/train-0.parquet"),
        (["dataset_infos.json", "train.jsonl", "valid.jsonl"], "data", "", "train.jsonl valid.jsonl"),
        (["axis/test/0.parquet", "comparisons/train/0.parquet"], "data", "comparisons", "comparisons/train/0.parquet"),
    ],
)
def test_of_a_repository_only_what_is_needed_is_taken_and_of_weights_the_safer_kind(names, what, part, wanted):
    assert hub.needed(names, what, part) == wanted.split()


# ----------------------------------------------------------------------------- the cache


def test_a_path_is_itself_and_is_not_looked_for_on_the_hub(home):
    assert str(hub.resolve("some/where", "model")) == "some/where"


@pytest.mark.parametrize("revision", ["main", "refs/convert/parquet"])
def test_a_branch_is_found_in_the_cache_and_so_are_its_parts(home, revision):
    files = {"comparisons/train/0.parquet": b"1", "axis/test/0.parquet": b"2"}
    folder = mirror.cache(home, "datasets/a/b", files, revision)
    assert hub.resolve(f"hub:datasets/a/b@{revision}/comparisons", "data") == folder / "comparisons"
    assert hub.resolve(f"hub:datasets/a/b@{COMMIT}", "data") == folder


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_is_found_in_the_cache_whatever_else_the_hub_lists_of_it(home, weights):
    listed = ["config.json", weights, "onnx/config.json", "optimizer.pt", "README.md"]
    folder = mirror.cache(home, "them/net", {"config.json": b"{}", weights: b""}, listed=listed)
    assert hub.resolve(MODEL, "model") == folder


INDEX = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).encode()


@pytest.mark.parametrize(
    ("files", "listed"),
    [
        ({}, []),
        ({"config.json": b"{}"}, []),
        ({"config.json": b"{}", "model.safetensors.index.json": INDEX, "model-1-of-2.safetensors": b""}, []),
        ({"config.json": b"{}", "model.safetensors": b""}, ["config.json", "model.safetensors", "tokenizer.json"]),
    ],
)
def test_a_copy_that_was_cut_short_is_not_taken_for_a_whole_one(home, files, listed):
    if files:
        mirror.cache(home, "them/net", files, listed=listed)
    assert not hub.is_local(MODEL, "model")
    with refused(MODEL):
        hub.resolve(MODEL, "model")


def test_without_network_and_copy_one_sentence_says_how_to_bring_it(home):
    with pytest.raises(UserError) as error:
        hub.resolve(MODEL, "model")
    told = str(error.value)
    assert "\n" not in told
    for part in (
        MODEL,
        "python -m repro fetch SCALE",
        f"rsync -a THERE:.cache/huggingface/ {home}/",
        "HF_HUB_OFFLINE=1",
    ):
        assert part in told


@pytest.mark.parametrize("name", [name for name in SCALES if name.startswith("pythia-")])
def test_a_plan_of_a_papers_scale_needs_neither_the_hub_nor_a_copy(home, name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the library"))
    scale = find(name)
    keys = pipeline.keys(Recipe(), scale, 44413)
    assert keys["data"] == pipeline.keys(Recipe(), find("pythia-1b"), 44413)["data"]  # all were tokenised alike
    other = pipeline.keys(Recipe(), replace(scale, model=f"hub:EleutherAI/pythia-1b-deduped@{COMMIT}"), 44413)
    assert (other["data"] == keys["data"]) and (other["base"] != keys["base"])


@pytest.mark.parametrize("field", ["tokenizer", "model", "posts_file", "comparisons_file"])
def test_the_key_of_a_reference_is_the_reference(field):
    scales = [replace(SCALES["smoke"], **{field: f"hub:a/b@{revision}"}) for revision in ("v1", "v1", "v2")]
    one, same, other = (pipeline.keys(Recipe(), each, 1) for each in scales)
    assert one == same
    assert {name for name in one if one[name] != other[name]} >= {"base", "sft"}


def test_the_key_of_a_starting_point_for_each_seed_follows_what_lies_there(tmp_path):
    for seed in (1, 2):
        (tmp_path / f"start-{seed}").mkdir()
        (tmp_path / f"start-{seed}" / "model.safetensors").write_text(f"weights {seed}")
    toy = stage.Stage("toy", 1, ("sft_from",), (), seeded=True, run=lambda _: None)
    given = replace(SCALES["smoke"], sft_from=str(tmp_path / "start-{seed}"))
    before = [artefacts.key(toy, Recipe(), given, seed, {}) for seed in (1, 2)]
    artefacts.tree_digest.cache_clear()
    (tmp_path / "start-2" / "model.safetensors").write_text("other weights")
    after = [artefacts.key(toy, Recipe(), given, seed, {}) for seed in (1, 2)]
    assert before[0] == after[0] and before[1] != after[1]


# ----------------------------------------------------------------------------- downloads, from a hub on this machine


def network(vocabulary=64):
    """A tiny language model, as a repository's files."""
    made = pretrained.initialise_policy(SHAPE, vocabulary, 2048, seed=0)
    weights = save({name: value.clone() for name, value in made.state_dict().items()}, {"format": "pt"})
    return made, {"config.json": made.config.to_json_string().encode(), "model.safetensors": weights}


def test_what_is_missing_is_downloaded_once_and_nothing_that_is_not_needed(tmp_path, monkeypatch):
    made, files = network()
    extra = {"pytorch_model.bin": b"pickle", "optimizer.pt": b"x", "README.md": b"x", "tokenizer.json": b"{}"}
    with mirror.serving({"them/net": files | extra}) as (address, taken):
        mirror.use(monkeypatch, tmp_path / "home", offline=False, endpoint=address)
        first = starts.load_policy("hub:them/net@main")
        assert sorted(taken) == ["config.json", "model.safetensors", "tokenizer.json"]
        starts.load_policy("hub:them/net@main")
        assert len(taken) == 3
    mirror.use(monkeypatch, tmp_path / "home", offline=True)
    again = starts.load_policy(f"hub:them/net@{COMMIT}")
    for name, value in made.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]) and torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub:them/none@main", "the hub has no model them/none"),
        ("hub:them/net@v9", "them/net has no revision v9"),
        ("hub:them/bare@main", "has none of *.safetensors, pytorch_model*.bin"),
    ],
)
def test_what_the_hub_does_not_have_is_said(tmp_path, monkeypatch, source, message):
    with mirror.serving({"them/net": network()[1], "them/bare": {"config.json": b"{}"}}) as (address, _):
        mirror.use(monkeypatch, tmp_path / "home", offline=False, endpoint=address)
        with refused(message):
            hub.resolve(source, "model")


def test_a_policy_of_which_weights_are_missing_is_refused(tmp_path):
    made, _ = network()
    pretrained.save_policy(made, tmp_path / "whole")
    weights = {n: v.clone() for n, v in made.state_dict().items() if "dense_h_to_4h.weight" not in n}
    pretrained.save_policy(made, tmp_path / "cut")
    save_file(weights, tmp_path / "cut" / "model.safetensors", {"format": "pt"})
    starts.load_policy(tmp_path / "whole")
    with refused("dense_h_to_4h.weight"):
        starts.load_policy(tmp_path / "cut")
    with refused("no config.json"):
        starts.load_policy(tmp_path)
    (tmp_path / "cut" / "config.json").write_text('{"model_type": "t5"}')
    with refused("no causal language model"):
        starts.load_policy(tmp_path / "cut")


# ----------------------------------------------------------------------------- the authors' checkpoints


def test_the_table_has_every_size_stage_and_seed_once():
    table = starts.released()
    sizes, stages, seeds = ({key[place] for key in table} for place in range(3))
    assert len(table) == len(sizes) * len(stages) * len(seeds) == 3 * 4 * 4
    assert seeds == set(find("pythia-1b").seeds)
    for (origin, _, seed), reference in table.items():
        experiment, own_seed, stamp = reference.revision.split("__")
        assert reference.repo == f"vwxyzjn/{origin.replace('/', '_')}__{experiment}__tldr"
        assert int(own_seed) == seed and re.fullmatch(r"17\d{8}", stamp)
    assert len({str(reference) for reference in table.values()}) == len(table)


def test_a_starting_point_is_the_authors_or_a_path_of_its_own_for_each_seed(home, tmp_path):
    theirs = starts.start_source("released", SCALES["pythia-1b"].model, 55513, "rm")
    assert theirs == "hub:vwxyzjn/EleutherAI_pythia-1b-deduped__reward__tldr@reward__55513__1708628552"
    (tmp_path / "3").mkdir()
    assert starts.start_of(str(tmp_path / "{seed}"), "any", 3, "sft") == tmp_path / "3"
    with refused("where sft of seed 4 starts, is no folder"):
        starts.start_of(str(tmp_path / "{seed}"), "any", 4, "sft")
    with refused(
        "no sft checkpoint of seed 1 of EleutherAI/pythia-1b-deduped; there are seeds 44413 55513 66613 77713"
    ):
        starts.start_source("released", SCALES["pythia-1b"].model, 1, "sft")
    with refused("there are seeds only of hub:EleutherAI/pythia-1b-deduped"):
        starts.start_source("released", "gpt-neox:32/2/2/64", 44413, "sft")


def starts_board(tmp_path, seeds, **starts):
    """All jobs of an arm for these seeds, from these starting points, at the scale whose base the authors took."""
    scale = find("pythia-1b", starts)
    study = Ablation(WHITEN_ADV, "", {"shift_and_scale": Recipe()}, seeds, scale, "test/win_rate", True, 0.05)
    return dag_of(study, tmp_path / "cache")


def test_released_starting_points_of_all_seeds_and_stages_are_here_before_anything_runs(home, tmp_path):
    fields = {"sft_from": "released", "rm_from": "released", "policy_from": "released"}
    named = starts.released()
    origin = "EleutherAI/pythia-1b-deduped"
    sources = [named[origin, kind, seed] for kind in starts.STARTS.values() for seed in (44413, 55513)]
    for missing in sources:
        with refused(f"{missing} is not complete in"):
            check_starts(starts_board(tmp_path, (44413, 55513), **fields))
        commit = hashlib.sha1(str(missing).encode()).hexdigest()
        mirror.cache(home, missing.repo, network()[1], missing.revision, commit)
    check_starts(starts_board(tmp_path, (44413, 55513), **fields))


def test_starting_points_that_are_missing_are_brought_by_the_launcher(tmp_path, monkeypatch):
    with mirror.serving({"them/net": network()[1]}) as (address, taken):
        mirror.use(monkeypatch, tmp_path / "home", offline=False, endpoint=address)
        check_starts(starts_board(tmp_path, (44413, 55513), rm_from="hub:them/net@main"))
    assert sorted(taken) == ["config.json", "model.safetensors"] and hub.is_local("hub:them/net@main", "model")


def test_a_seed_without_a_released_checkpoint_is_told_before_any_other_comes(home, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the library"))
    with refused("released no ppo checkpoint of seed 1 of"):
        check_starts(starts_board(tmp_path, (44413, 1), policy_from="released"))


def test_a_starting_point_of_a_stage_that_is_done_is_not_asked_for(home, tmp_path):
    (tmp_path / "1").mkdir()
    for name, content in network()[1].items():
        (tmp_path / "1" / name).write_bytes(content)
    dag = starts_board(tmp_path, (1, 2), sft_from=str(tmp_path / "{seed}"))
    with refused("where sft of seed 2 starts, is no folder"):
        check_starts(dag)
    dag.done |= {key for key, each in dag.jobs.items() if (each.stage, each.seed) == ("sft", 2)}
    check_starts(dag)


# As transformers 4.33 wrote the configuration of a Pythia.
OLD_CONFIG = {
    "model_type": "gpt_neox",
    "architectures": ["GPTNeoXForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "use_parallel_residual": True,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-05,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
}


def with_old_buffers(weights, trunk):
    """The weights as transformers 4.33 saved them."""
    for layer in range(2):
        attention = f"{trunk}.layers.{layer}.attention"
        weights[f"{attention}.bias"] = torch.ones(1, 1, 48, 48, dtype=torch.bool).tril()
        weights[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        weights[f"{attention}.rotary_emb.inv_freq"] = torch.ones(2)
    return weights


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_authors_policy_says_what_it_said(tmp_path, kind):
    made = modes.freeze(pretrained.initialise_policy(SHAPE, 64, 48, seed=0))
    weights = with_old_buffers({name: value.clone() for name, value in made.state_dict().items()}, "gpt_neox")
    (tmp_path / "config.json").write_text(json.dumps(OLD_CONFIG))
    if kind == "safetensors":
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    else:
        torch.save(weights, tmp_path / "pytorch_model.bin")
    loaded = modes.freeze(starts.load_policy(tmp_path))
    ids = torch.arange(2, 12)[None]
    assert made.config.rope_parameters["partial_rotary_factor"] == 0.25
    torch.testing.assert_close(loaded(ids).logits, made(ids).logits)


def checkpoint(folder, kind="safetensors", drop=(), add=(), config=()):
    """The authors' reward model in miniature: (folder, trunk, head, bias of the reward)."""
    now = {name: value for name, value in OLD_CONFIG.items() if not name.startswith(("rotary", "torch", "model"))}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    torch.manual_seed(0)
    trunk = AutoModel.from_config(GPTNeoXConfig(**now, rope_parameters=rope), dtype=torch.float32).eval()
    head = torch.nn.Linear(32, 1)
    weights = {f"lm_backbone.{name}": value for name, value in trunk.state_dict().items()}
    weights |= {f"scalar_head.{name}": value for name, value in head.state_dict().items()}
    weights = with_old_buffers(weights, "lm_backbone")
    weights = {name: value.clone() for name, value in weights.items() if name not in drop}
    weights |= {name: torch.zeros(3) for name in add}
    folder.mkdir()
    whole = {"base_model": "models/x/sft", "base_config": OLD_CONFIG, "hidden_size": 32, "bias": 1.375}
    (folder / "config.json").write_text(json.dumps({n: v for n, v in whole.items() if n not in config}))
    if kind == "safetensors":
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return folder, trunk, head, 1.375


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_authors_reward_model_says_what_its_formula_says(tmp_path, kind):
    folder, trunk, head, bias = checkpoint(tmp_path / "rm", kind)
    loaded = modes.freeze(starts.load_released_reward_model(folder))
    ids = torch.randint(1, 60, (3, 11), generator=torch.Generator().manual_seed(0))
    ids[1, 7:] = 63  # padding on the right, where they trained
    with torch.no_grad():
        hidden = trunk(input_ids=ids.masked_fill(ids == 63, 0), attention_mask=(ids != 63).long()).last_hidden_state
        last = torch.stack([hidden[0, 10], hidden[1, 6], hidden[2, 10]])
        expected = (last * head.weight).sum(1) + head.bias - bias
        found = scoring.score(loaded, ids, torch.tensor([4, 2, 4]), pad=63)
    assert expected.abs().min() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    pretrained.save_scalar(loaded, tmp_path / "ours")
    kept = modes.freeze(pretrained.load_scalar(tmp_path / "ours"))
    torch.testing.assert_close(scoring.score(kept, ids, torch.tensor([4, 2, 4]), pad=63), found)
    assert starts.is_released_reward_model(folder) and not starts.is_released_reward_model(tmp_path / "ours")


def test_the_old_configuration_turns_the_same_share_of_each_head(tmp_path):
    loaded = starts.load_released_reward_model(checkpoint(tmp_path / "rm")[0])
    assert loaded.trunk.config.rope_parameters["partial_rotary_factor"] == 0.25
    assert loaded.trunk.config.rope_parameters["rope_theta"] == 10000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"drop": ["scalar_head.bias"]}, "missing: scalar_head.bias"),
        ({"config": ["bias"]}, "bias is missing; a reward model as the paper's authors saved theirs"),
        ({"config": ["base_config"]}, "base_config is missing"),
        ({"add": ["v_head.weight"]}, "unexpected: v_head.weight"),
        (
            {"add": ["lm_backbone.layers.0.attention.dense.bias"]},
            "of another shape: lm_backbone.layers.0.attention.dense",
        ),
        ({"drop": ["lm_backbone.final_layer_norm.bias"]}, "missing: lm_backbone.final_layer_norm.bias"),
    ],
)
def test_a_reward_model_that_is_not_whole_is_refused_by_name(tmp_path, damage, message):
    with refused(message):
        starts.load_released_reward_model(checkpoint(tmp_path / "rm", **damage)[0])


class Code:
    """What a pickle of more than weights would run."""

    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_of_more_than_weights_is_not_opened(tmp_path, capsys):
    folder = checkpoint(tmp_path / "rm", "bin")[0]
    torch.save({"scalar_head.bias": Code()}, folder / "pytorch_model.bin")
    with refused("a pickle of more than weights, which is not opened"):
        starts.load_released_reward_model(folder)
    assert capsys.readouterr().out == ""
    (folder / "pytorch_model.bin").unlink()
    with refused("no weights; *.safetensors or pytorch_model*.bin is needed"):
        starts.load_released_reward_model(folder)


# ----------------------------------------------------------------------------- fetch


def table(rows):
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def bare(post):
    return {name: post[name] for name in ("id", "subreddit", "title", "post", "summary")}


def corpus_files():
    """The paper's two repositories in miniature, in the layout that they have on the hub."""
    posts = [bare(post) for post in embedded.make_posts(24, 5, "files")]
    pairs = embedded.make_comparisons(posts_with_facts := embedded.make_posts(24, 5, "files"), 12, 5, "train")
    held = embedded.make_comparisons(posts_with_facts, 8, 5, "valid2")
    article = {"id": "a1", "article": "News of the day.", "subreddit": None, "title": None, "post": None}
    held += [{**held[0], "info": article, "batch": "cnndm0"}]
    splits = {"train": posts[:16], "validation": posts[16:20], "test": posts[20:]}
    return {
        "datasets/a/posts": {f"data/{s}-00000-of-00001-0f.parquet": table(rows) for s, rows in splits.items()},
        "datasets/a/pairs": {
            "comparisons/train/0000.parquet": table(pairs),
            "comparisons/validation/0000.parquet": table(held),
            "axis/test/0000.parquet": table([{"x": 1}]),
        },
    }


FIELDS = {
    "posts_file": "hub:datasets/a/posts@main",
    "comparisons_file": "hub:datasets/a/pairs@refs/convert/parquet/comparisons",
    "tokenizer": "hub:them/net@main",
    "model": "hub:them/net@main",
}
SMALL = {"posts": 16, "comparisons": 12, "sft_batch": 4, "rm_batch": 4, "ppo_batch": 4, "episodes": 8, "test_posts": 4}
WORDS = [f"{name}={value}" for name, value in (FIELDS | SMALL).items()]


@pytest.fixture
def served(tmp_path, monkeypatch, tokenizer_file):
    """A hub with a model, its tokenizer and the data, and the files that it was asked for."""
    tokenizer = {"tokenizer.json": tokenizer_file.read_bytes()}
    with mirror.serving({"them/net": network(640)[1] | tokenizer} | corpus_files()) as (address, taken):
        mirror.use(monkeypatch, tmp_path / "home", offline=False, endpoint=address)
        yield taken


def test_fetch_brings_all_that_a_scale_needs_and_says_what_it_was(
    served, tmp_path, monkeypatch, capsys, tokenizer_file
):
    assert main(["fetch", "pythia-160m", "--to", str(tmp_path / "plain"), "--set", *WORDS]) == 0
    told, got = capsys.readouterr().out, len(served)
    assert "posts train 16, posts validation 4, posts test 4" in told
    assert "comparisons train 12, comparisons validation 8, comparisons validation_cnndm 1" in told
    assert "axis/test/0000.parquet" not in served and got == 3 + 3 + 2
    known = json.loads((tmp_path / "home" / fetch.MANIFEST).read_text())
    assert {entry["commit"] for entry in known.values()} == {COMMIT}
    assert known[FIELDS["model"]]["fields"] == ["model", "tokenizer"]
    assert known[FIELDS["model"]]["files"].keys() == {"config.json", "model.safetensors", "tokenizer.json"}
    assert known[FIELDS["comparisons_file"]]["files"].keys() == {
        f"comparisons/{split}/0000.parquet" for split in ("train", "validation")
    }
    assert main(["fetch", "pythia-160m", "--set", *WORDS]) == 0
    assert "0.00 MB to download" in capsys.readouterr().out and len(served) == got
    mirror.use(monkeypatch, tmp_path / "home", offline=True)
    assert main(["fetch", "pythia-160m", "--set", *WORDS]) == 0
    words = told.split("with --set ")[1].split()
    plain = find("pythia-160m", dict(word.split("=", 1) for word in words) | {n: str(v) for n, v in SMALL.items()})
    mirror.use(monkeypatch, tmp_path / "nothing", offline=True)
    assert fetch.counts(plain)["comparisons validation"] == 8
    assert load_tokenizer(plain.tokenizer).get_vocab() == load_tokenizer(tokenizer_file).get_vocab()
    starts.load_policy(plain.model)
    assert plain.name.startswith("pythia-160m-model=net@0123456789ab-posts-")


def test_what_was_fetched_is_all_that_the_first_stages_need(served, tmp_path, monkeypatch):
    assert main(["fetch", "pythia-160m", "--set", *WORDS]) == 0
    mirror.use(monkeypatch, tmp_path / "home", offline=True)
    scale = find("pythia-160m", FIELDS | {name: str(value) for name, value in SMALL.items()})
    data.check(Recipe(), scale)
    assert fetch.commits(scale) == dict.fromkeys(FIELDS.values(), COMMIT)
    keys = pipeline.keys(Recipe(), scale, 44413)
    for each in (data.STAGE, base.STAGE):
        artefacts.run_or_reuse(each, Recipe(), scale, 44413, keys, tmp_path / "cache", pytest.fail)
    corpus = Corpus(tmp_path / "cache" / keys["data"])
    assert [len(corpus.posts(split)) for split in ("train", "validation", "test")] == [16, 4, 4]
    assert [len(corpus.pairs(split)) for split in ("train", "validation", data.ARTICLES)] == [12, 8, 1]
    kept, given = pretrained.load_policy(tmp_path / "cache" / keys["base"] / "model"), starts.load_policy(scale.model)
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in kept.state_dict().items())


def test_a_scale_of_files_needs_nothing_of_the_hub(capsys):
    assert main(["fetch", "mini"]) == 0
    assert "has no source on the hub" in capsys.readouterr().out


def test_released_checkpoints_are_asked_for_by_seed(home):
    wanted = fetch.needs(find("pythia-1b"), starts.STARTS.values())
    assert [need.field for need in wanted[4:]] == [f for f in starts.STARTS for _ in range(4)]
    assert wanted[4].source == "hub:vwxyzjn/EleutherAI_pythia-1b-deduped__sft__tldr@sft__44413__1708611267"
    assert len(fetch.needs(find("pythia-1b", {"rm_from": "released"}))) == 4 + 4
    assert len(fetch.needs(find("pythia-1b", {"rm_from": f"hub:a/b@{COMMIT}"}))) == 4 + 1
    assert fetch.needs(find("pythia-1b", {"annotator": f"hub:a/b@{COMMIT}"}))[-1].field == "annotator"
    assert len(fetch.needs(find("pythia-1b", {"annotator": "judge:oracle"}))) == 4


def test_checkpoints_of_several_seeds_become_one_path_with_the_seed_in_it(home, tmp_path):
    scale = find("pythia-1b", {"sft_from": "released", "seeds": "44413,55513"})
    wanted = [need for need in fetch.needs(scale) if need.field == "sft_from"]
    for need in wanted:
        reference = hub.parse(need.source)
        commit = need.seed.rjust(40, "0")
        mirror.cache(home, reference.repo, network()[1] | {"seed.txt": need.seed.encode()}, reference.revision, commit)
    paths = fetch.copy({need: fetch.survey(need) for need in wanted}, tmp_path / "plain")
    for seed in scale.seeds:
        start = starts.start_of(paths["sft_from"], scale.model, seed, "sft")
        assert (start / "seed.txt").read_text() == str(seed)
        starts.load_policy(start)


def tokenised(tokenizer, wrong=""):
    """What the authors' script would have published of two posts and two comparisons; the second row is `wrong` in a column."""
    posts = [bare(post) for post in embedded.make_posts(2, 5, "files")]
    pairs = embedded.make_comparisons(embedded.make_posts(2, 5, "files"), 2, 5, "train")
    encoded = {
        "posts": (posts, tldr.encode_posts(posts, tokenizer, tldr.TLDR_LENGTHS), fetch.POST_COLUMNS),
        "pairs": (pairs, tldr.encode_pairs(pairs, tokenizer, tldr.TLDR_LENGTHS), fetch.PAIR_COLUMNS),
    }
    tables = {}
    for name, (rows, made, columns) in encoded.items():
        rows = [row | {column: made[place][column] for column in columns} for place, row in enumerate(rows)]
        if wrong in columns:
            rows[1][wrong] = [*rows[1][wrong][:-1], 5]
        tables[name] = {"data/train-00000-of-00001.parquet": table(rows)}
    return tables


@pytest.mark.parametrize("wrong", ["", "query_reference_response_token", "query_rejected_token"])
def test_the_check_says_in_how_many_rows_our_tokens_are_the_authors(home, tokenizer_file, wrong):
    tables = tokenised(load_tokenizer(tokenizer_file), wrong)
    for source, files in ((fetch.TOKENISED_POSTS, tables["posts"]), (fetch.TOKENISED_PAIRS, tables["pairs"])):
        mirror.cache(home, f"datasets/{hub.parse(source).repo}", files)
    found = list(fetch.agreements(replace(SCALES["smoke"], tokenizer=str(tokenizer_file)), 10))
    assert [each.column for each in found] == [*fetch.POST_COLUMNS, *fetch.PAIR_COLUMNS]
    assert {each.column: (each.rows, each.same) for each in found} == {
        column: (2, 1 if column == wrong else 2) for column in (*fetch.POST_COLUMNS, *fetch.PAIR_COLUMNS)
    }
    assert [bool(each.first) for each in found] == [each.column == wrong for each in found]
