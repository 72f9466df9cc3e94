"""The shipped tokenizer and base model: frozen, and made for each other and for the grammar."""

from repro import model
from repro.data import embedded, local
from repro.scale import EMBEDDED
from repro.stage import file_digest


def test_the_files_are_the_ones_that_were_hashed():
    recorded = dict(line.split()[::-1] for line in (EMBEDDED / "SHA256SUMS").read_text().splitlines())
    found = {str(file.relative_to(EMBEDDED)) for file in EMBEDDED.rglob("*") if file.is_file()} - {"SHA256SUMS"}
    assert set(recorded) == found
    for name, digest in recorded.items():
        assert file_digest(EMBEDDED / name) == digest, f"{name} changed: the base model reads other ids now"


def test_every_word_that_states_a_fact_is_one_token():
    tokenizer = local.load_tokenizer(EMBEDDED / "tokenizer.json")
    assert [word for word in embedded.SLOT_OF if len(tokenizer.encode(f" {word}")) > 1] == []


def test_the_base_model_has_an_id_for_every_token_and_has_never_seen_the_end_of_text():
    tokenizer = local.load_tokenizer(EMBEDDED / "tokenizer.json")
    policy = model.load_policy(EMBEDDED / "base")
    assert policy.config.vocab_size >= len(tokenizer)
    document = next(embedded.base_documents(0))
    logits = policy(input_ids=tokenizer(document, return_tensors="pt")["input_ids"]).logits
    assert logits.softmax(-1)[..., tokenizer.eos_token_id].max() < 1e-3
