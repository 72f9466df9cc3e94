"""The shipped tokenizer and base model: frozen, and made for each other and for the grammar."""

import itertools

import torch

from repro.data import embedded, local
from repro.engine.artefacts import file_digest
from repro.models import pretrained
from repro.study.scale import EMBEDDED


def test_the_files_are_the_ones_that_were_hashed():
    recorded = dict(line.split()[::-1] for line in (EMBEDDED / "SHA256SUMS").read_text().splitlines())
    found = {str(file.relative_to(EMBEDDED)) for file in EMBEDDED.rglob("*") if file.is_file()} - {"SHA256SUMS"}
    assert set(recorded) == found
    for name, digest in recorded.items():
        assert file_digest(EMBEDDED / name) == digest, f"{name} changed: the base model reads other ids now"


def test_every_word_that_states_a_fact_is_one_token():
    tokenizer = local.load_tokenizer(EMBEDDED / "tokenizer.json")
    assert [word for word in embedded.SLOT_OF if len(tokenizer.encode(f" {word}")) > 1] == []


def test_the_base_model_has_an_id_for_every_token():
    tokenizer = local.load_tokenizer(EMBEDDED / "tokenizer.json")
    assert pretrained.load_policy(EMBEDDED / "base").config.vocab_size >= len(tokenizer)


@torch.no_grad()
def test_the_base_model_ends_few_texts_and_those_where_readers_begin():
    tokenizer, policy = local.load_tokenizer(EMBEDDED / "tokenizer.json"), pretrained.load_policy(EMBEDDED / "base")
    words = {tokenizer.encode(lead)[0] for lead in embedded.LEADS if lead.strip(" .\n").islower()}
    ends, begins = [], []
    for document in itertools.islice(embedded.base_documents(0, embedded.REPLIED_FIRST), 16):
        ids = tokenizer(document, return_tensors="pt")["input_ids"][:, :255]
        ends.append(policy(input_ids=ids).logits.softmax(-1)[0, :-1, tokenizer.eos_token_id])
        begins.append(torch.tensor([id_ in words for id_ in ids[0, 1:].tolist()]))
    end, begin = torch.cat(ends), torch.cat(begins)
    assert 0.005 < end[begin].mean() < 0.05 and end[~begin].mean() < 0.1 * end[begin].mean()
