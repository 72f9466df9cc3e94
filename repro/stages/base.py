"""The base stage: the pre-trained language model that everything starts from, and how the embedded one was made."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro.data import embedded
from repro.errors import UserError
from repro.models import compatibility, hub, pretrained
from repro.stages.corpus import Corpus
from repro.stages.data import ARTICLES, require_vocabulary
from repro.stages.stage import Stage, StageContext

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
SHAPE = "gpt-neox:64/{layers}/2/256"


def _run(context: StageContext) -> None:
    folder, corpus = hub.resolve(context.scale.model, "model"), Corpus(context.inputs["data"])
    positions = max(context.scale.query_tokens + context.scale.response_tokens, context.scale.query_pair_tokens)
    if folder.exists():
        policy = compatibility.infer_position_ids(hub.load_policy(folder))
    else:
        vocabulary = math.ceil(len(corpus.tokenizer) / 64) * 64
        policy = pretrained.initialise_policy(context.scale.model, vocabulary, positions, context.seed_of("weights"))
    require_vocabulary(corpus.tokenizer, policy.config.get_text_config().vocab_size)
    if folder.exists():
        require_positions(policy, max(positions, _article_tokens(corpus)))
    compatibility.require_reproducible(policy)
    pretrained.save_policy(policy, context.out / "model")
    context.finish({"base/parameters": float(sum(p.numel() for p in policy.parameters()))})


def require_positions(policy: PreTrainedModel, tokens: int) -> None:
    """UserError where a text of so many tokens is longer than any that the model has positions for."""
    known = getattr(policy.config.get_text_config(), "max_position_embeddings", tokens)
    if tokens > known:
        raise UserError(
            f"the base model has positions for {known} tokens and the longest texts have {tokens}; give smaller "
            "query_tokens and query_pair_tokens, and the lengths that go with them, or comparisons without articles"
        )


def _article_tokens(corpus: Corpus) -> int:
    """Length of the texts that end in an article's summary; 0 where there are none."""
    return corpus.pairs(ARTICLES).features["query_chosen_token"].length if corpus.has_pairs(ARTICLES) else 0


STAGE = Stage(
    "base",
    version=2,
    fields=("model", "query_tokens", "response_tokens", "query_pair_tokens"),
    upstream=("data",),
    seeded=False,
    run=_run,
)


# ------------------------------------------------------------------------------ making the embedded base model


def train_tokenizer(documents: int = 6_000, vocabulary: int = 800) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the raw corpus in which every word of the grammar is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END_OF_TEXT], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(itertools.islice(embedded.base_documents(0), documents), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)


@dataclass(frozen=True)
class Phase:
    """A part of the embedded base model's training: how deep the network is then, and for how long at which rate."""

    layers: int
    steps: int
    learning_rate: float


# What a summary is worth is a sum over its facts, so a network needs a layer below its last in which it knows whether a fact
# is so. One of four layers that is trained from the start takes all four to learn that, and never learns to count what
# readers have not marked (correlation with the true count 0.4 after 4,000 steps, on a draft of this corpus). One that learns
# to mark in three layers, until it is right in 99 of 100, and is then given a fourth counts after 1,000 more (0.96). The
# phases follow the corpus: readers mark every fact in the first two, count in a reply in the third, and anywhere in the last.
PHASES = (Phase(3, 4_000, 3e-3), Phase(3, 3_000, 3e-3), Phase(4, 1_500, 2e-3), Phase(4, 1_500, 2e-3))
BATCH = 32
STEPS = sum(phase.steps for phase in PHASES)


def pretrain(
    tokenizer: PreTrainedTokenizerFast, phases: Sequence[Phase], report: Callable[[int, float], None]
) -> torch.nn.Module:
    """Next-token training on the raw corpus, in which no document has an end of text; `report` is handed step and loss."""
    vocabulary, documents, policy, done = math.ceil(len(tokenizer) / 64) * 64, 0, None, 0
    for phase in phases:
        deeper = pretrained.initialise_policy(SHAPE.format(layers=phase.layers), vocabulary, 256, seed=0)
        policy = deeper if policy is None else grown(policy, deeper)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=phase.learning_rate, betas=(0.9, 0.95), fused=True)
        batches = text_batches(tokenizer, documents)
        for step in range(phase.steps):
            falls = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / phase.steps))
            optimizer.param_groups[0]["lr"] = phase.learning_rate * min(1.0, (step + 1) / 100) * falls
            ids, mask = next(batches)
            logits = policy(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), ids[:, 1:].masked_fill(~mask[:, 1:], -1).flatten(), ignore_index=-1
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            report(done + step, loss.item())
        documents, done = documents + phase.steps * BATCH, done + phase.steps
    return policy


@torch.no_grad()
def begin_end_of_text(policy: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start the end of text, which no document has, as readers' first words: behind it they count, where a text ends it stands.

    As an input it is the mean of those words' embeddings, as long as they are: from the mean itself (less than half as long),
    and more so from random weights, a reward model needs more comparisons before it reads at the end of text what the
    network knows of the facts. As an output it is the plain mean, as a new token commonly starts: SFT
    learns to end most texts, and PPO to end all; as long as the words it would end nearly every text from the start.
    """
    words = [tokenizer.encode(lead)[0] for lead in embedded.LEADS if lead.strip(" .\n").islower()]
    read, written = policy.get_input_embeddings().weight, policy.get_output_embeddings().weight
    read[tokenizer.eos_token_id] = nn.functional.normalize(read[words].mean(0), dim=0) * read[words].norm(dim=1).mean()
    written[tokenizer.eos_token_id] = written[words].mean(0)


@torch.no_grad()
def bring_outputs_to_unit_size(policy: torch.nn.Module) -> None:
    """Scale the final hidden states to a root mean square of about one, and the output embedding up by as much.

    The logits stay as they were. A head of standard deviation 1/sqrt(d + 1) on top (N+ detail 11) then starts with outputs
    of about N(0, 1), as on a network whose norms have not been trained; on larger hidden states the offset with which it
    starts, which comparisons of two texts never correct, is what the critic inherits away from the end of text.
    """
    norm = policy.gpt_neox.final_layer_norm
    size = (norm.weight.square() + norm.bias.square()).mean().sqrt()
    for parameter in (norm.weight, norm.bias):
        parameter.div_(size)
    policy.get_output_embeddings().weight.mul_(size)


@torch.no_grad()
def grown(policy: torch.nn.Module, deeper: torch.nn.Module) -> torch.nn.Module:
    """`deeper` with the weights of `policy` in its lower layers, and upper ones that add nothing yet."""
    for layer in deeper.gpt_neox.layers[policy.config.num_hidden_layers :]:
        for last in (layer.attention.dense, layer.mlp.dense_4h_to_h):
            last.weight.zero_()
            last.bias.zero_()
    deeper.load_state_dict(policy.state_dict(), strict=False)
    return deeper


def text_batches(tokenizer: PreTrainedTokenizerFast, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """([N, T] tokens, [N, T] where they are no padding) from document `first` on: texts of about one length together."""
    documents, shuffle = embedded.base_documents(1, first), random.Random(first)
    while True:
        texts = list(itertools.islice(documents, 16 * BATCH))
        rows = sorted((torch.tensor(row[:255]) for row in tokenizer(texts)["input_ids"]), key=len)
        batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        shuffle.shuffle(batches)
        for batch in batches:
            ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
            lengths = torch.tensor([len(row) for row in batch])
            yield ids, torch.arange(ids.shape[1])[None, :] < lengths[:, None]


def make_embedded_base(folder: Path, steps: int) -> None:
    """Write `tokenizer.json` and `base/` of the embedded corpus, by the recipe of the shipped files.

    Those were made phase by phase while the corpus was still a draft, so that their ids and weights are other ones.
    `steps` is of all phases together; a number other than theirs makes each longer or shorter by the same factor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    factor, began = steps / STEPS, time.time()
    phases = [replace(phase, steps=max(1, round(phase.steps * factor))) for phase in PHASES]

    def report(step: int, loss: float) -> None:
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}/{steps}  loss {loss:.3f}  {time.time() - began:.0f} s", flush=True)

    policy = pretrain(tokenizer, phases, report)
    begin_end_of_text(policy, tokenizer)
    bring_outputs_to_unit_size(policy)
    pretrained.save_policy(policy, folder / "base")
