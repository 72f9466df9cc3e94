"""TRL's PPOTrainer at a Pythia's shape with random weights: episodes per second, to set beside ours.

As its user runs it with `bf16=True`: float32 weights that are trained under bfloat16 autocast. What can be chosen is chosen
in its favour: reference and reward model in bfloat16, activations are not computed again. Queries are full, no response ends,
four epochs over one mini-batch, as ours. TRL is the one that is installed, or a wheel that TRL_WHEEL names, itself or by
its folder: a wheel is a zip, which Python imports from.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WHEEL = "TRL_WHEEL"
EPOCHS, SCORED = 4, 64  # passes over a batch; rows of a scoring pass, whose logits TRL has all at once


class Enough(Exception):
    """Another update would end too late."""


def wheel() -> Path | None:
    """The newest wheel of TRL where TRL_WHEEL says."""
    named = Path(os.environ.get(WHEEL) or os.devnull)
    found = [named] if named.suffix == ".whl" and named.is_file() else sorted(named.glob("trl-*.whl"))
    return found[-1].resolve() if found else None


def missing() -> str:
    """Why TRL cannot be run, or nothing."""
    if os.environ.get(WHEEL) and not wheel():
        return f"there is no trl-*.whl where {WHEEL}={os.environ[WHEEL]} says"
    if wheel() or find_spec("trl"):
        return ""
    return f"trl is not installed, and {WHEEL} names no wheel of it"


def reach() -> None:
    """From here on Python finds TRL; Hugging Face's libraries are the ones that are installed."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if (found := wheel()) and str(found) not in sys.path:
        sys.path.insert(0, str(found))


def measure(
    shape: str, batch: int, micro_batch: int, updates: int, until: float, note: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """So many updates after one that warms up, fewer where they would not end before `until` [s of perf_counter].

    `note` is told what is known after each.
    """
    reach()
    trainer = _trainer(shape, batch, micro_batch, updates + 1)
    seconds: list[float] = []

    def ended(taken: float) -> None:
        seconds.append(taken)
        note(_described(trainer, seconds, batch, micro_batch))
        if time.perf_counter() + taken > until:
            raise Enough

    trainer.add_callback(_clock(ended))
    try:
        trainer.train()
    except Enough:
        pass
    return _described(trainer, seconds, batch, micro_batch)


def _trainer(shape: str, batch: int, micro_batch: int, updates: int) -> Any:
    import torch
    from transformers import GPTNeoXForSequenceClassification
    from trl.experimental.ppo import PPOTrainer

    from benchmarks import gpu
    from repro.models import mixed_precision, pretrained

    scale = gpu.scale_of(shape, batch)
    mixed = mixed_precision.by_scale(scale.precision)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        positions = scale.query_tokens + scale.response_tokens
        policy, reference = (
            pretrained.initialise_policy(scale.model, gpu.VOCABULARY, positions, seed=0) for _ in range(2)
        )
        config = deepcopy(policy.config)
        config.num_labels = 1
        value, reward = (GPTNeoXForSequenceClassification(config) for _ in range(2))
    held = torch.bfloat16 if mixed == "bf16" else torch.float32
    return PPOTrainer(
        args=_arguments(scale, batch, micro_batch, updates, mixed),
        processing_class=_tokenizer(gpu.VOCABULARY),
        model=policy,
        ref_model=reference.to(held),
        reward_model=reward.to(held),
        value_model=value,
        train_dataset=_queries(scale, gpu.VOCABULARY, batch * updates),
    )


def _arguments(scale: Any, batch: int, micro_batch: int, updates: int, mixed: str) -> Any:
    import torch
    from trl.experimental.ppo import PPOConfig

    # Its accelerator asks the environment, whatever the arguments say.
    os.environ["ACCELERATE_MIXED_PRECISION"] = mixed
    return PPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-"),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=batch // micro_batch,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        total_episodes=batch * updates,
        response_length=scale.response_tokens,
        local_rollout_forward_batch_size=min(batch, SCORED),
        learning_rate=3e-6,
        stop_token=None,
        bf16=mixed == "bf16",
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        num_sample_generations=0,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def _tokenizer(vocabulary: int) -> Any:
    """Of made-up words; it pads with a token past the vocabulary, which no policy can draw."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{token}": token for token in range(vocabulary)}, unk_token="w0"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", eos_token="w0", unk_token="w0", padding_side="left"
    )


def _queries(scale: Any, vocabulary: int, count: int) -> Any:
    import torch
    from datasets import Dataset

    ids = torch.randint(1, vocabulary, (count, scale.query_tokens), generator=torch.Generator().manual_seed(0))
    return Dataset.from_dict({"input_ids": ids.tolist()})


def _clock(ended: Callable[[float], None]) -> Any:
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Tells the seconds of each update, once the GPU has done it."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now, began = time.perf_counter(), self.began
            self.began = now
            ended(now - began)

    return Clock()


def _described(trainer: Any, seconds: list[float], batch: int, micro_batch: int) -> dict[str, Any]:
    """The first update warms up; where it is the only one, it has to do, and `warm` is false."""
    import torch

    counted = seconds[1:] or seconds
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    return {
        "version": wheel().name.split("-")[1] if wheel() else metadata.version("trl"),
        "batch": batch,
        "micro_batch": micro_batch,
        "updates": len(counted),
        "warm": len(seconds) > 1,
        "seconds": statistics.median(counted),
        "episodes_per_second": batch / statistics.median(counted),
        "precision": trainer.accelerator.mixed_precision,
        "peak_gib": peak,
    }
