"""The loss of supervised fine-tuning, against a loop that predicts one token at a time."""

import pytest
import torch
from tiny import EOS, PAD, policy

from repro import model, sft

TEXTS = [[5, 6, 7, EOS], [8, 9, EOS], [10, 11, 12, 13, 14]]  # the last was cut off before its end


def padded(texts, pad):
    """[N, T + 2] right-padded: some of the padding is in every row."""
    width = max(map(len, texts)) + 2
    return torch.tensor([text + [pad] * (width - len(text)) for text in texts])


@torch.no_grad()
def one_by_one(network, texts):
    """Nats of every token given those before it, each in a forward pass of its own."""
    return sum(
        -network(torch.tensor([text[:place]])).logits[0, -1].log_softmax(-1)[text[place]].item()
        for text in texts
        for place in range(1, len(text))
    )


def test_every_token_after_the_first_counts_the_end_too_and_padding_does_not():
    network = policy()
    assert sft.token_loss(network, padded(TEXTS, PAD), PAD).item() == pytest.approx(one_by_one(network, TEXTS))


def test_where_padding_is_the_end_of_text_nothing_teaches_the_end():
    network, endless = policy(), [[token for token in text if token != EOS] for text in TEXTS]
    loss = sft.token_loss(network, padded(TEXTS, EOS), EOS).item()
    assert loss == pytest.approx(one_by_one(network, endless))
    assert loss < one_by_one(network, TEXTS)


def test_padding_and_where_it_is_split_change_no_gradient():
    network, ids = policy(), padded(TEXTS, PAD)

    def gradient(*parts):
        network.zero_grad()
        sum(sft.token_loss(network, part, PAD) for part in parts).backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    whole = gradient(ids)
    torch.testing.assert_close(gradient(*ids.split(1)), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient(model.trim_right(ids, PAD)), whole, atol=1e-4, rtol=1e-4)
