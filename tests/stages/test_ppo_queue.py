"""Which batch an update learns from, and that a checkpoint holds those that are waiting."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.models import ranks
from repro.stages.ppo_queue import Batch, RolloutQueue, sampled_ahead
from tests.tiny import made_up_rollout

ROLLOUT = made_up_rollout(last_token=[0, 2, 3], has_eos=[True, True, False], tokens=4)


def batch_of(rows, uniform):
    return Batch(rows, rows[:, None], uniform, torch.ones(len(rows), dtype=torch.bool), rows.tolist())


def queue():
    return RolloutQueue(batch_of, torch.device("cpu"))


@given(st.integers(1, 9), st.integers(0, 5))
def test_an_update_learns_from_its_own_batch_sampled_so_many_updates_earlier(updates, delay):
    waiting, sampled_at, learnt = [], {}, []
    for update, to_sample in zip(range(updates), sampled_ahead(iter(torch.arange(updates)), delay)):
        for batch in to_sample:
            sampled_at[int(batch)] = update
            waiting.append(int(batch))
        learnt.append(waiting.pop(0))
    assert learnt == list(range(updates))
    assert [sampled_at[batch] for batch in learnt] == [max(batch - delay, 0) for batch in learnt]


def test_what_waits_is_taken_in_the_order_in_which_it_came_and_comes_back_from_a_checkpoint():
    first, filled = queue(), [batch_of(torch.tensor([i, i + 1, i + 2]), torch.full((3, 4), i / 10)) for i in (1, 5)]
    for batch in filled:
        first.put(batch, ROLLOUT)
    again = queue()
    again.load_state_dict(first.state_dict())
    for batch in filled:
        (one, rollout), (other, restored) = first.take(), again.take()
        assert one is batch
        assert torch.equal(other.rows, batch.rows) and torch.equal(other.uniform, batch.uniform)
        assert all(torch.equal(a, b) for a, b in zip(rollout, restored, strict=True))
    assert not first.waiting and not again.waiting


def test_each_rank_gets_its_own_episodes_back(monkeypatch):
    shards = {}
    for rank in (0, 1):
        each = queue()
        each.put(batch_of(torch.tensor([rank, 2, 3]), torch.full((3, 4), float(rank))), ROLLOUT)
        shards[rank] = each.state_dict()["ranks"][0]
    state = {"ranks": [shards[0], shards[1]]}
    for rank in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        again = queue()
        again.load_state_dict(state)
        assert again.take()[0].rows[0] == rank
