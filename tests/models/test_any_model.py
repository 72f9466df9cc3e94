"""Causal language models of other families than Pythia's, with tokenizers of their own, and as GGUF files."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import transformers
from mlflow import MlflowClient
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from repro.data import local
from repro.detail import Recipe
from repro.engine import pipeline
from repro.errors import UserError
from repro.models import (
    compatibility,
    forward_pass,
    generate,
    logprobs,
    modes,
    padding,
    pretrained,
    scalar_model,
    scoring,
    starts,
)
from repro.models.scalar_model import ScalarModel
from repro.stages import base
from repro.stages.corpus import Corpus, column
from tests import smollm2
from tests.paths import ROOT, SHARED
from tests.tiny import EOS, queries, uniform

POSTS, COMPARISONS = (SHARED / "data" / name for name in ("posts.jsonl", "comparisons"))
VOCABULARY = 1024
PAD = VOCABULARY  # past the embedding, as a [PAD] that a tokenizer is given often is
HALF = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
COMMON = HALF | {"vocab_size": VOCABULARY, "max_position_embeddings": 128, "pad_token_id": 0}
GROUPED = COMMON | {"num_key_value_heads": 1}
SMALL_HEADS = GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 4}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
OPT = {key: value for key, value in COMMON.items() if key != "intermediate_size"} | {"ffn_dim": 64}
FAMILIES = {
    "gpt_neox": transformers.GPTNeoXConfig(**COMMON),
    "llama, embeddings tied": transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2, window of 4": transformers.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen3": transformers.Qwen3Config(**GROUPED, head_dim=16),
    "mistral, window of 4": transformers.MistralConfig(**GROUPED, sliding_window=4),
    "gemma2, capped logits": transformers.Gemma2Config(**SMALL_HEADS),
    "gemma3": transformers.Gemma3TextConfig(**SMALL_HEADS, layer_types=["sliding_attention", "full_attention"]),
    "phi": transformers.PhiConfig(**COMMON),
    "mixtral": transformers.MixtralConfig(**GROUPED, num_local_experts=4),
    "lfm2, convolutions": transformers.Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"]),
    "falcon_h1, scaled logits": transformers.FalconH1Config(
        **GROUPED,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
        lm_head_multiplier=0.5,
    ),
    "bloom, no positions": transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=2),
    "opt, learned positions": transformers.OPTConfig(**OPT, word_embed_proj_dim=32),
    "opt, hidden states projected": transformers.OPTConfig(**OPT, word_embed_proj_dim=16),
    "gpt2, learned positions": transformers.GPT2Config(**GPT2),
    "gpt_bigcode, learned positions": transformers.GPTBigCodeConfig(**GPT2),
}


def network(family):
    """A random network whose logits are far apart, as its configuration has it: with dropout, where it has any."""
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(FAMILIES[family]).train()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(5 if weight.dim() > 1 else 1)
    return made


@pytest.fixture(params=FAMILIES)
def policy(request):
    """A base model as the base stage leaves it."""
    made = compatibility.infer_position_ids(network(request.param))
    compatibility.require_reproducible(made)
    return modes.freeze(made)


# ----------------------------------------------------------------------------- what has to hold of each of them


@torch.no_grad()
def test_sampling_and_one_pass_over_the_text_agree_and_padding_changes_nothing(policy):
    query, numbers = queries(5, width=9).masked_fill(queries(5, width=9) == 63, PAD), uniform(5, 8)
    how = generate.Sampling(0.7, 0.7)
    response, sampled = generate.sample(policy, query, numbers, how, EOS, PAD)
    again = logprobs.response_logprobs(policy, query, response, PAD, EOS, 0.7)
    plain = logprobs.token_logprobs(
        logprobs.response_logits(policy, query, response, PAD, EOS), response, PAD, EOS, 0.7
    )
    assert sampled.std() > 0.2
    torch.testing.assert_close(sampled, again, atol=2e-5, rtol=0)
    torch.testing.assert_close(again, plain, atol=2e-5, rtol=0)
    for row in range(5):
        own = query[row][query[row] != PAD][None]
        alone, logprob = generate.sample(policy, own, numbers[row][None], how, EOS, PAD)
        assert torch.equal(alone[0], response[row])
        torch.testing.assert_close(logprob[0], sampled[row], atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_scalar_model_on_it_says_the_same_of_a_text_however_it_is_padded(policy):
    network = ScalarModel(policy.base_model)
    scalar_model.head_normal(network.head, torch.Generator().manual_seed(0))
    query = queries(5, width=9).masked_fill(queries(5, width=9) == 63, PAD)
    tokens = padding.count_tokens(query, PAD)
    left, right = (
        scoring.score(network, pack(query, PAD), tokens, PAD) for pack in (padding.pad_left, padding.pad_right)
    )
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-5)
    assert left.std() > 0.1


@torch.no_grad()
def test_what_is_saved_and_loaded_says_the_same_bit_for_bit(policy, tmp_path):
    critic = ScalarModel(policy.base_model)
    scalar_model.head_normal(critic.head, torch.Generator().manual_seed(0))
    pretrained.save_policy(policy, tmp_path / "policy")
    pretrained.save_scalar(critic, tmp_path / "critic")
    inputs = forward_pass.model_inputs(queries(5).masked_fill(queries(5) == 63, PAD), PAD)
    read = starts.load_policy(tmp_path / "policy").eval()
    assert torch.equal(read(**inputs).logits, policy(**inputs).logits)
    assert torch.equal(pretrained.load_scalar(tmp_path / "critic").eval()(**inputs), critic(**inputs))
    tied = [each.get_input_embeddings().weight is each.get_output_embeddings().weight for each in (read, policy)]
    assert tied[0] == tied[1]


def test_one_whose_past_is_not_in_the_cache_is_refused():
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8)
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(5 if weight.dim() > 1 else 1)
    with pytest.raises(UserError, match="differ between sampling token by token and one pass over the whole text"):
        compatibility.require_reproducible(made)


def test_a_text_longer_than_a_base_model_has_positions_for_is_refused():
    base.require_positions(network("gpt2, learned positions"), 128)
    with pytest.raises(UserError, match="positions for 128 tokens and the longest texts have 129"):
        base.require_positions(network("gpt2, learned positions"), 129)


# ----------------------------------------------------------------------------- every stage


@pytest.mark.parametrize("family", ["llama, embeddings tied", "gemma2, capped logits", "gpt2, learned positions"])
def test_every_stage_runs_and_the_first_pass_over_a_batch_has_ratio_one(family, tiny_scale, tmp_path):
    network(family).save_pretrained(tmp_path / "base")
    scale = replace(tiny_scale, model=str(tmp_path / "base"), episodes=32, ppo_learning_rate=1e-3)
    folders = pipeline.run(Recipe(), scale, 1, tmp_path / "cache", warn=pytest.fail)
    journal = [json.loads(line) for line in (folders["ppo"] / "metrics.jsonl").read_text().splitlines()]
    first, last = journal[0]["metrics"], journal[-1]["metrics"]
    assert first["policy/first_ratio_error"] < 1e-4
    assert abs(first["objective/kl"]) < 1e-4 < abs(last["objective/kl"])
    result = json.loads((folders["evaluate"] / "result.json").read_text())
    assert (result["outcome"], {name for name in result["metrics"] if "nonfinite" in name}) == ("finished", set())
    trained, start = (pretrained.load_policy(folders[stage] / "model") for stage in ("ppo", "sft"))
    assert type(trained) is type(start) and trained.config.vocab_size == VOCABULARY
    moved = [name for name, value in start.state_dict().items() if not torch.equal(value, trained.state_dict()[name])]
    assert len(moved) > 10


# ----------------------------------------------------------------------------- tokenizers


def byte_tokenizer(file, *special, start=""):
    """A tokenizer of bytes with these special tokens before them, which starts every text with one of them if told."""
    alphabet = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens(list(special))
    if start:
        core.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, special.index(start))]
        )
    core.save(str(file))
    return file


@pytest.mark.parametrize(
    ("special", "named"),
    [
        (("<unk>", "<s>", "</s>"), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
        (("<pad>", "</s>"), {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}),
        (("<|endoftext|>", "<|im_end|>"), {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
        (
            ("<|im_start|>", "<|im_end|>"),
            {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        ),
    ],
)
@pytest.mark.parametrize("starts", ["starts texts", "as they are"])
def test_prompts_start_as_the_tokenizer_starts_texts_and_completions_end_in_its_end_of_text(
    special, named, starts, tiny_scale, tmp_path
):
    start = named.get("bos_token", "") if starts == "starts texts" else ""
    file = byte_tokenizer(tmp_path / "bytes.json", *special, start=start)
    PreTrainedTokenizerFast(tokenizer_file=str(file), **named).save_pretrained(tmp_path / "tokenizer")
    tokenizer = local.load_tokenizer(tmp_path / "tokenizer")
    assert tokenizer.eos_token == named["eos_token"] and tokenizer.pad_token_id != tokenizer.eos_token_id
    scale = replace(tiny_scale, tokenizer=str(tmp_path / "tokenizer"), query_tokens=128, query_reference_tokens=512)
    corpus = Corpus(_data(scale, tmp_path / "cache"))
    posts = corpus.posts("train")
    for row, ids in zip(posts, column(posts, "query_token")):
        query = ids[ids != corpus.pad].tolist()
        assert query == tokenizer.encode(start + row["query"], add_special_tokens=False)
        whole = [token for token in row["query_reference_response_token"] if token != corpus.pad]
        assert tokenizer.decode(whole[len(query) :]) == f" {row['reference']}{named['eos_token']}"
        assert (whole[0] == tokenizer.bos_token_id) == bool(start)


def _data(scale, cache):
    """The folder of a data artefact."""
    from repro.engine import artefacts

    keys = pipeline.keys(Recipe(), scale, 1)
    return artefacts.run_or_reuse(pipeline.BY_NAME["data"], Recipe(), scale, 1, keys, cache, pytest.fail)


# ----------------------------------------------------------------------------- GGUF


def write_gguf(policy, tokens, file):
    """A Qwen2 and its vocabulary as llama.cpp stores them, in float32."""
    gguf = pytest.importorskip("gguf")
    writer, config = gguf.GGUFWriter(str(file), "qwen2"), policy.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, value in policy.state_dict().items():
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), value.numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()


@pytest.fixture
def gguf(tmp_path):
    """(the folder with a GGUF, the network that is in it)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", *alphabet, "ab", *(f"<|extra{n}|>" for n in range(VOCABULARY - len(alphabet) - 2))]
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(transformers.Qwen2Config(**GROUPED)).eval()
    (tmp_path / "packed").mkdir()
    write_gguf(made, tokens, tmp_path / "packed" / "model.gguf")
    return tmp_path / "packed", made


@torch.no_grad()
def test_a_gguf_is_read_bit_for_bit_and_saved_as_transformers_saves(gguf, tmp_path):
    folder, made = gguf
    inputs = forward_pass.model_inputs(queries(5).masked_fill(queries(5) == 63, PAD), PAD)
    for source in (folder, folder / "model.gguf"):
        read = starts.load_policy(source).eval()
        assert torch.equal(read(**inputs).logits, made(**inputs).logits)
    pretrained.save_policy(read, tmp_path / "saved")
    assert {"config.json", "model.safetensors"} <= {file.name for file in (tmp_path / "saved").iterdir()}
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    assert torch.equal(pretrained.load_policy(tmp_path / "saved").eval()(**inputs).logits, made(**inputs).logits)


def test_a_gguf_brings_its_tokenizer(gguf):
    folder, _ = gguf
    for source in (folder, folder / "model.gguf"):
        tokenizer = local.load_tokenizer(source)
        assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|endoftext|>", 0)
        assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", VOCABULARY)
        ids = tokenizer.encode("xab ä<|endoftext|>", add_special_tokens=False)
        assert ids[-1] == 0 and len(ids) == 6 and tokenizer.decode(ids) == "xab ä<|endoftext|>"


def test_a_folder_with_no_model_or_with_two_is_refused(gguf):
    folder, _ = gguf
    (folder / "another.gguf").write_bytes((folder / "model.gguf").read_bytes())
    with pytest.raises(UserError, match="2 GGUF files and no config.json; a folder with one of either is needed"):
        starts.load_policy(folder)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(UserError, match="0 GGUF files and no config.json"):
        starts.load_policy(folder)


def test_what_is_no_gguf_is_refused(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_text("weights")
    with pytest.raises(UserError, match="no causal language model"):
        starts.load_policy(tmp_path)
    with pytest.raises(UserError, match="not a tokenizer"):
        local.load_tokenizer(tmp_path)


# ----------------------------------------------------------------------------- one that knows English

needs_posts = pytest.mark.skipif(not POSTS.exists() or not COMPARISONS.exists(), reason="shared/data is not here")


@pytest.fixture(scope="module")
def smol():
    """SmolLM2 and its tokenizer, as the base and data stages read them."""
    file = smollm2.file()
    return starts.load_policy(file).eval(), local.load_tokenizer(file)


@pytest.mark.nightly
@torch.no_grad()
def test_an_unpacked_model_says_what_transformers_makes_of_the_same_file(smol, tmp_path):
    policy, tokenizer = smol
    file = smollm2.file()
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer.encode("The capital of France is", add_special_tokens=False)])
    assert torch.equal(policy(ids).logits, theirs(ids).logits)
    pretrained.save_policy(policy, tmp_path)
    assert torch.equal(pretrained.load_policy(tmp_path).eval()(ids).logits, theirs(ids).logits)
    said = policy.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert tokenizer.decode(said[0]) == "The capital of France is Paris"


def perplexity(policy, tokenizer, texts):
    """Of each next token of the texts' first 200, by the policy."""
    total = count = 0
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)[:200]])
        total += policy(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return float(torch.tensor(total / count).exp())


@pytest.mark.nightly
@needs_posts
@torch.no_grad()
def test_an_unpacked_model_reads_peoples_posts_and_not_their_words_in_another_order(smol):
    with POSTS.open() as lines:
        posts = [json.loads(line)["post"] for line, _ in zip(lines, range(8))]
    backwards = [" ".join(reversed(post.split())) for post in posts]
    read, unread = (perplexity(*smol, texts) for texts in (posts, backwards))
    assert read < 60 < 10 * read < unread


@pytest.mark.nightly
@needs_posts
@pytest.mark.timeout(3600)
def test_a_pre_trained_model_goes_to_its_report_on_peoples_posts(tmp_path):
    budget = {
        "model": smollm2.file(),
        "tokenizer": smollm2.file(),
        "posts_file": POSTS,
        "comparisons_file": COMPARISONS / "batch13.json",
        **{"posts": 16, "validation_posts": 4, "test_posts": 4, "comparisons": 16, "validation_comparisons": 12},
        **{"query_tokens": 96, "reference_tokens": 50, "query_reference_tokens": 146, "response_tokens": 16},
        **{"pair_response_tokens": 60, "query_pair_tokens": 156, "normalisation_posts": 8},
        **{"sft_batch": 8, "rm_batch": 8, "ppo_batch": 4, "episodes": 8, "micro_batch": 4},
        **{"sft_learning_rate": 2e-5, "rm_learning_rate": 2e-5, "ppo_learning_rate": 1e-5},
    }
    words = [sys.executable, "-m", *"repro run kl_coef --scale local --arms 0 --seeds 1 --set".split()]
    place = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "", "REPRO_CACHE": ""}
    told = [f"{name}={value}" for name, value in budget.items()]
    done = subprocess.run([*words, *told], cwd=tmp_path, env=place, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "reports" / "build").glob("kl_coef-local-*/index.html"))
    store = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [each for each in store.search_experiments() if each.name.startswith("kl_coef")]
    runs = [run for run in store.search_runs([experiment.experiment_id]) if "arm" in run.data.tags]
    assert {run.data.tags["arm"] for run in runs} == {"0.05", "0"}
    for run in runs:
        assert run.data.tags["outcome"] == "finished"
        first = {name: _first(store, run, name) for name in ("objective/kl", "policy/first_ratio_error")}
        assert abs(first["objective/kl"]) < 1e-3 and first["policy/first_ratio_error"] < 1e-3
        assert run.data.metrics["base/parameters"] == 134_515_008


def _first(store, run, name):
    return min(store.get_metric_history(run.info.run_id, name), key=lambda point: point.step).value
