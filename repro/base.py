"""The base stage: the pre-trained language model that everything starts from, and how the embedded one was made."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from repro import hub, model
from repro.data import ARTICLES, Corpus, embedded, require_vocabulary
from repro.errors import UserError
from repro.stage import Stage, Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
SHAPE = "gpt-neox:64/3/2/256"


def _run(work: Work) -> None:
    folder, corpus = hub.resolve(work.scale.model, "model"), Corpus(work.inputs["data"])
    positions = max(work.scale.query_tokens + work.scale.response_tokens, work.scale.query_pair_tokens)
    if folder.exists():
        policy = model.with_own_positions(hub.load_policy(folder))
    else:
        vocabulary = math.ceil(len(corpus.tokenizer) / 64) * 64
        policy = model.initialise(work.scale.model, vocabulary, positions, work.seed_of("weights"))
    require_vocabulary(corpus.tokenizer, policy.config.get_text_config().vocab_size)
    if folder.exists():
        require_positions(policy, max(positions, _article_tokens(corpus)))
    model.require_reproducible(policy)
    model.save_policy(policy, work.out / "model")
    work.finish({"base/parameters": float(sum(p.numel() for p in policy.parameters()))})


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
    version=1,
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


def pretrain(
    tokenizer: PreTrainedTokenizerFast,
    shape: str,
    steps: int,
    batch: int,
    learning_rate: float,
    report: Callable[[int, float], None],
) -> torch.nn.Module:
    """Next-token training on the raw corpus, in which no document has an end of text."""
    policy = model.initialise(shape, math.ceil(len(tokenizer) / 64) * 64, 256, seed=0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    documents = embedded.base_documents(1)
    for step in range(steps):
        rate = learning_rate * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate
        ids, mask = _pad(tokenizer, itertools.islice(documents, batch))
        logits = policy(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].masked_fill(~mask[:, 1:], -1).flatten(), ignore_index=-1
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        report(step, loss.item())
    return policy


def _pad(tokenizer: PreTrainedTokenizerFast, documents: Iterator[str]) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(tokenizer.encode(document)[:255]) for document in documents]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1])[None, :] < lengths[:, None]


def make_embedded_base(folder: Path, steps: int) -> None:
    """Write `tokenizer.json` and `base/` of the embedded corpus: the command behind the shipped files."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    began = time.time()

    def report(step: int, loss: float) -> None:
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}/{steps}  loss {loss:.3f}  {time.time() - began:.0f} s", flush=True)

    model.save_policy(pretrain(tokenizer, SHAPE, steps, 24, 3e-3, report), folder / "base")
