"""The base stage: the pre-trained language model that everything starts from, and the pre-training of the embedded one."""

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
from repro.models import compatibility, hub, pretrained, starts
from repro.stages.corpus import Corpus
from repro.stages.data import ARTICLES, require_vocabulary
from repro.stages.stage import Stage, StageContext

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
WIDTH, HEAD = 64, 32  # of the shipped network's hidden states, and of one attention head


def _run(context: StageContext) -> None:
    folder, corpus = hub.resolve(context.scale.model, "model"), Corpus(context.inputs["data"])
    positions = max(context.scale.query_tokens + context.scale.response_tokens, context.scale.query_pair_tokens)
    if folder.exists():
        policy = compatibility.infer_position_ids(starts.load_policy(folder))
    else:
        vocabulary, seed = vocabulary_for(corpus.tokenizer), context.seed_of("weights")
        policy = pretrained.initialise_policy(context.scale.model, vocabulary, positions, seed)
    require_vocabulary(corpus.tokenizer, policy.config.get_text_config().vocab_size)
    if folder.exists():
        require_positions(policy, max(positions, _article_tokens(corpus)))
    compatibility.require_reproducible(policy)
    pretrained.save_policy(policy, context.out / "model")
    context.finish({"base/parameters": float(sum(p.numel() for p in policy.parameters()))})


def vocabulary_for(tokenizer: PreTrainedTokenizerFast) -> int:
    """The vocabulary of a new network: the tokenizer's, rounded up to a multiple of 64, a size that matrix products like."""
    return math.ceil(len(tokenizer) / 64) * 64


def require_positions(policy: PreTrainedModel, tokens: int) -> None:
    """UserError where the model has positions for fewer tokens than the longest text."""
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", tokens)
    if tokens > positions:
        raise UserError(
            f"the base model has positions for {positions} tokens and the longest texts have {tokens}; give smaller "
            "query_tokens and query_pair_tokens, and the lengths that go with them, or comparisons without articles"
        )


def _article_tokens(corpus: Corpus) -> int:
    """Row length of comparisons of news articles; 0 where there are none."""
    return corpus.pairs(ARTICLES).features["query_chosen_token"].length if corpus.has_pairs(ARTICLES) else 0


STAGE = Stage(
    "base",
    version=2,
    fields=("model", "query_tokens", "response_tokens", "query_pair_tokens"),
    upstream=("data",),
    seeded=False,
    run=_run,
)


# ------------------------------------------------------------------------------ pre-training the embedded base model


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


def shape(layers: int, width: int = WIDTH) -> str:
    """The embedded base model's, as `initialise_policy` takes it."""
    return f"gpt-neox:{width}/{layers}/{width // HEAD}/{4 * width}"


@dataclass(frozen=True)
class Phase:
    """A phase of pre-training the embedded base model: depth of the network, steps, and peak learning rate at `WIDTH`."""

    layers: int
    steps: int
    learning_rate: float


# The gold score is a sum over facts, so a network needs a layer below its last that knows whether each fact is right. Four
# layers trained from the start all go into that, and never learn to count facts that readers have not marked (correlation
# with the true count 0.4 after 4,000 steps, on a draft of this corpus). Three layers that first learn to mark, until 99 of
# 100 marks are right, and then get a fourth layer, count after 1,000 more steps (0.96). The phases follow the corpus:
# readers mark every fact in the first two, count in a reply in the third, and count anywhere in the last.
PHASES = (Phase(3, 4_000, 3e-3), Phase(3, 3_000, 3e-3), Phase(4, 1_500, 2e-3), Phase(4, 1_500, 2e-3))
BATCH = 32
STEPS = sum(phase.steps for phase in PHASES)


def pretrain(
    tokenizer: PreTrainedTokenizerFast,
    phases: Sequence[Phase],
    report: Callable[[int, float], None],
    width: int = WIDTH,
) -> torch.nn.Module:
    """Next-token training on the raw corpus, in which no document has an end of text; `report` gets each (step, loss).

    The learning rate falls as 1 / width, as Adam's for matrices does in muP (Yang et al., arXiv 2203.03466). Departure: here
    that of embeddings and biases falls too.
    """
    vocabulary, documents, policy, steps_done = vocabulary_for(tokenizer), 0, None, 0
    for phase in phases:
        network = pretrained.initialise_policy(shape(phase.layers, width), vocabulary, 256, seed=0)
        policy = network if policy is None else initialise_from_shallower(network, policy)
        peak = phase.learning_rate * WIDTH / width
        optimizer = torch.optim.AdamW(policy.parameters(), lr=peak, betas=(0.9, 0.95), fused=True)
        batches = text_batches(tokenizer, documents)
        for step in range(phase.steps):
            decay = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / phase.steps))
            optimizer.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / 100) * decay
            ids, mask = next(batches)
            logits = policy(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), ids[:, 1:].masked_fill(~mask[:, 1:], -1).flatten(), ignore_index=-1
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            report(steps_done + step, loss.item())
        documents, steps_done = documents + phase.steps * BATCH, steps_done + phase.steps
    return policy


@torch.no_grad()
def initialise_eos(policy: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    """Initialise the embeddings of the end of text, which no document has, from the words that precede readers' counts.

    The input embedding is the mean of those words' embeddings, scaled to their mean norm. With the unscaled mean (less than
    half as long), and more so with random weights, a reward model needs more comparisons before its output at the end of
    text reflects what the network knows of the facts. The output embedding is the unscaled mean, a common initialisation of
    new tokens: SFT then learns to end most texts, and PPO to end all. Scaled, it would end nearly every text from the start.
    """
    words = [tokenizer.encode(lead)[0] for lead in embedded.LEADS if lead.strip(" .\n").islower()]
    input_embedding, output_embedding = policy.get_input_embeddings().weight, policy.get_output_embeddings().weight
    direction = nn.functional.normalize(input_embedding[words].mean(0), dim=0)
    input_embedding[tokenizer.eos_token_id] = direction * input_embedding[words].norm(dim=1).mean()
    output_embedding[tokenizer.eos_token_id] = output_embedding[words].mean(0)


@torch.no_grad()
def normalise_hidden_states(policy: torch.nn.Module) -> None:
    """Scale the final hidden states to a root mean square of about 1, and the output embedding by the inverse factor.

    Logits stay the same. A scalar head of standard deviation 1/sqrt(d + 1) (N+ detail 11) then has initial outputs of about
    N(0, 1), as on a network with untrained norms. With larger hidden states the critic inherits, away from the end of text,
    the reward model's initial offset, which the loss of a comparison never corrects.
    """
    norm = policy.gpt_neox.final_layer_norm
    size = (norm.weight.square() + norm.bias.square()).mean().sqrt()
    for parameter in (norm.weight, norm.bias):
        parameter.div_(size)
    policy.get_output_embeddings().weight.mul_(size)


@torch.no_grad()
def initialise_from_shallower(network: torch.nn.Module, shallower: torch.nn.Module) -> torch.nn.Module:
    """`network` with the weights of `shallower` in its lower layers, and upper layers whose residual branches output 0."""
    for layer in network.gpt_neox.layers[shallower.config.num_hidden_layers :]:
        for projection in (layer.attention.dense, layer.mlp.dense_4h_to_h):
            projection.weight.zero_()
            projection.bias.zero_()
    network.load_state_dict(shallower.state_dict(), strict=False)
    return network


def text_batches(tokenizer: PreTrainedTokenizerFast, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """([N, T] token ids, [N, T] bool: false on padding) from document `first` on; documents of similar length share a batch."""
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


def make_embedded_base(folder: Path, steps: int, width: int = WIDTH) -> None:
    """Write `tokenizer.json` and `base/` of the embedded corpus, by the recipe of the shipped files.

    The shipped ones differ in ids and weights, since they were made phase by phase on drafts of the corpus. `steps` is the
    total; each phase is scaled by `steps / STEPS`. `width`, of the hidden states, is a multiple of `HEAD`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    factor, start_time = steps / STEPS, time.time()
    phases = [replace(phase, steps=max(1, round(phase.steps * factor))) for phase in PHASES]

    def report(step: int, loss: float) -> None:
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}/{steps}  loss {loss:.3f}  {time.time() - start_time:.0f} s", flush=True)

    policy = pretrain(tokenizer, phases, report, width)
    initialise_eos(policy, tokenizer)
    normalise_hidden_states(policy)
    pretrained.save_policy(policy, folder / "base")
