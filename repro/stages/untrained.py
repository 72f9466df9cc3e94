"""Policies that are evaluated in place of a trained one, as they are."""

from repro.models import pretrained, starts
from repro.stages.stage import StageContext


def import_policy(context: StageContext) -> None:
    """In place of training, copy the policy that Scale.policy_from names; it is evaluated like any other."""
    pretrained.save_policy(starts.load_policy(context.start("policy_from")), context.out / "model")
    context.finish({"ppo/updates": 0.0})


def keep_sft_policy(context: StageContext) -> None:
    """In place of training, the SFT policy."""
    pretrained.save_policy(pretrained.load_policy(context.inputs["sft"] / "model"), context.out / "model")
    context.finish({"ppo/updates": 0.0})
