"""Pure functions on tensors: nothing here mutates, logs, or knows a device, a recipe or a stage.

To be read, and to be copied: each states the shapes of its arguments, its equation, its units, where it is from and where it
departs from that. A function takes along what it calls, which is in its own module or, most often, in `masked`, best copied
whole; and the names of shapes, as `PerToken`, whose lines in `repro/types.py` need torch and jaxtyping. Below
`from __future__ import annotations` nobody looks for those names: there `gae` needs nothing but torch. In the order of PPO:

| module | formulas |
|---|---|
| `prompt` | how a prompt ends and is made to fit, how a completion starts and ends (N+ details 2 to 6) |
| `preference` | Bradley-Terry and its relatives, batches of comparisons, accuracy and calibration (N+ details 10 and 18) |
| `branch` | two texts that begin alike as one row, for a reward model that reads both |
| `text` | where a response ends; log-probabilities, entropy and KL from logits; which tokens count (N+ detail 23) |
| `truncation` | the tokens that a truncated sampler may draw, and log-probabilities over them alone (top-p, top-k) |
| `vocabulary` | log-probabilities without all logits at once, forward and backward |
| `places` | which columns of each row are read |
| `reward` | score and EOS trick, shape, price of length, estimators of the KL, normalisation (N+ details 15 and 23.3) |
| `ensemble` | one score from those of several reward models (Coste et al. 2023) |
| `best_of` | the best of n samples in expectation, and its KL where samples repeat (WebGPT; Beirami et al.) |
| `masked` | mean, variance and whitening under a mask, over all ranks (N+ details 24 and 25) |
| `advantage` | GAE, n-step returns, plain returns, the lambda of each response (N+ table 7) |
| `baseline` | what a return is compared with without a critic: other responses, earlier batches (RLOO, GRPO, ReMax) |
| `ratio` | the ratio of a token or of a response, and how far it may go (N+ section 7, GSPO, DAPO) |
| `loss` | PPO's clipped objective and others, value loss and its clip, entropy bonus, weights of tokens (N+ section 7) |
| `entropy` | a coefficient of the entropy bonus that holds the entropy at a level (SAC) |
| `trust_region` | the natural gradient, its scale in KL, and the search along it (TRPO) |
| `optim` | learning-rate schedules, and when a batch is done (N+ details 9 and 10, table 7) |

Shapes are jaxtyping annotations; `repro/types.py` has the names of dimensions and the short names of common shapes. A variant
that leaves something out takes the arguments of what it stands for, and its docstring says which of them are not read.
Nothing is imported here: `from repro.ops import advantage` brings that module and torch.
"""
