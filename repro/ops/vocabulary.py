"""Log-probabilities over a large vocabulary, without its logits: they exist a block at a time, in either pass."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits that exist at once: on a CPU they should stay in its cache, a GPU wants large products.
BLOCK = {"cpu": 2**19}
LARGE_BLOCK = 2**27
WIDTH = 2**10  # of a block on a CPU, in tokens of the vocabulary; on a GPU it is all of them


def selected_logprob(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    tokens: Int[Tensor, " rows"],
    temperature: float,
    never: int,
) -> Float[Tensor, " rows"]:
    """Log-probability of each token under the logits of an output layer, in nats; float32 or wider.

    log p(x) = z_x / temperature - log sum_v exp(z_v / temperature),  z = hidden weight^T,  over all v but `never`

    It is differentiable once, in both factors; the backward pass computes the logits again. Rows whose gradient is 0 add
    nothing to that of the weight, not even where they are no numbers.

    Args:
        hidden: [rows, width] the network's last hidden states.
        weight: [vocabulary, width] of an output layer without a bias.
        tokens: [rows] x, ids below the vocabulary's size.
        temperature: not 0.
        never: id of a token that cannot be drawn; -1 leaves none out.

    Source: as `text.logprob_of`; the blocks as in Wijmans et al. 2024 (cut cross-entropy), in PyTorch alone.
    """
    return _SelectedLogprob.apply(hidden, weight, tokens, 1 / temperature, never)


class _SelectedLogprob(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, scale: float, never: int) -> Tensor:
        if torch.is_autocast_enabled(hidden.device.type):
            hidden, weight = (each.to(torch.get_autocast_dtype(hidden.device.type)) for each in (hidden, weight))
        own, total = torch.empty(2, len(hidden), dtype=_precision(hidden), device=hidden.device)
        for rows in _rows(hidden, weight):
            own[rows], total[rows] = _own_and_logsumexp(hidden[rows], weight, tokens[rows], scale, never)
        context.save_for_backward(hidden, weight, tokens, total)
        context.scale, context.never = scale, never
        return own - total

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, tokens, total = context.saved_tensors
        gradient, (hidden_wanted, weight_wanted) = gradient * context.scale, context.needs_input_grad[:2]
        # 0 times what is no number is none: such rows are put out of the sums, not multiplied.
        nothing = gradient == 0
        hidden, total = hidden.masked_fill(nothing[:, None], 0.0), total.masked_fill(nothing, 0.0)
        # Sums over blocks in float32 or wider, whatever the products are in.
        own, precision = gradient[:, None], total.dtype
        of_hidden = own * weight[tokens].to(precision)
        of_weight = torch.zeros_like(weight, dtype=precision) if weight_wanted else weight
        for rows in _rows(hidden, weight):
            for block, logits in _blocks(hidden[rows], weight, context.scale, context.never):
                # What the token's own logit gains all of them lose, by their probability.
                lost = logits.sub_(total[rows, None]).exp_().mul_(gradient[rows, None]).to(hidden.dtype)
                if hidden_wanted:
                    of_hidden[rows].sub_(lost @ weight[block])
                if weight_wanted:
                    of_weight[block].sub_(lost.T @ hidden[rows])
        if weight_wanted:
            of_weight.index_add_(0, tokens, own * hidden)
        return of_hidden if hidden_wanted else None, of_weight if weight_wanted else None, None, None, None


def _rows(hidden: Tensor, weight: Tensor) -> list[slice]:
    """The rows that are gone through together: as many as make a block."""
    size = BLOCK.get(hidden.device.type, LARGE_BLOCK) // _width(hidden, weight)
    return [slice(start, start + max(1, size)) for start in range(0, len(hidden), max(1, size))]


def _width(hidden: Tensor, weight: Tensor) -> int:
    return min(WIDTH, len(weight)) if hidden.device.type in BLOCK else len(weight)


def _precision(hidden: Tensor) -> torch.dtype:
    """In which sums are taken."""
    return torch.promote_types(hidden.dtype, torch.float32)


def _blocks(
    hidden: Float[Tensor, "rows width"], weight: Float[Tensor, "vocabulary width"], scale: float, never: int
) -> Iterator[tuple[slice, Float[Tensor, "rows block"]]]:
    """(slice of the vocabulary, its logits in float32 or wider) in turn; their memory is used again."""
    width = _width(hidden, weight)
    room = torch.empty(len(hidden), width, dtype=hidden.dtype, device=hidden.device)
    for start in range(0, len(weight), width):
        part = weight[start : start + width]
        logits = torch.mm(hidden, part.T, out=room if len(part) == width else None).to(_precision(hidden)).mul_(scale)
        if start <= never < start + len(part):
            logits[:, never - start] = -torch.inf
        yield slice(start, start + len(part)), logits


def _own_and_logsumexp(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    tokens: Int[Tensor, " rows"],
    scale: float,
    never: int,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Each token's own scaled logit, and the log of the sum of the exponentials of all.

    Both are of the same products: in bfloat16 one rounded otherwise could be larger than the sum that it is part of.
    """
    own, total = torch.full((2, len(hidden)), -torch.inf, dtype=_precision(hidden), device=hidden.device)
    for block, logits in _blocks(hidden, weight, scale, never):
        place = (tokens - block.start).clamp(0, logits.shape[1] - 1)
        inside = (block.start <= tokens) & (tokens < block.stop)
        own = torch.where(inside, logits.gather(1, place[:, None])[:, 0], own)
        total = torch.logaddexp(total, logits.logsumexp(1))
    return own, total
