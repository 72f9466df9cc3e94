"""The same updates of PPO by TRL's PPOTrainer; a script for an environment of its own, with nothing of this project in it.

`python -P benchmarks/peer.py LOAD.json RESULT.json`; `benchmarks/bench_peer.py` writes the load and reads the result.
TRL is run as its documentation has it: nothing is patched, and a callback reads the clock when an update ends.
"""

import json
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    """Seconds on the wall and of the processor, when training begins and whenever an update has ended."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def on_train_begin(self, *args, **kwargs) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def on_step_end(self, *args, **kwargs) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))


def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """One word for each token; padding lies past the vocabulary, so that no response ends early."""
    words = WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="[PAD]", eos_token="w0", padding_side="left"
    )


def config_of(shape: dict, **more) -> GPTNeoXConfig:
    hidden, layers, heads, intermediate = map(int, shape["network"].removeprefix("gpt-neox:").split("/"))
    return GPTNeoXConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        vocab_size=shape["vocabulary"],
        max_position_embeddings=512,
        pad_token_id=None,
        bos_token_id=0,
        eos_token_id=0,
        **more,
    )


def arguments_of(load: dict, folder: str) -> PPOConfig:
    """One mini-batch of the whole batch, float32, a whole response, nothing written but the log."""
    batch, updates = load["batch"], load["updates"] + 1
    micro_batch = load.get("micro_batch") or batch
    return PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=batch // micro_batch,
        num_mini_batches=1,
        num_ppo_epochs=load["epochs"],
        total_episodes=batch * updates,
        response_length=load["shape"]["response"],
        local_rollout_forward_batch_size=batch,
        temperature=0.7,
        learning_rate=3e-6,
        kl_coef=0.05,
        stop_token=None,
        bf16=False,
        use_cpu=True,
        seed=0,
        num_sample_generations=0,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )


def timed_updates(load: dict, folder: str) -> list[tuple[float, float]]:
    """Seconds of each update after a first one that warms up: on the wall, and of the processor."""
    shape, batch = load["shape"], load["batch"]
    torch.manual_seed(0)
    policy, reference = GPTNeoXForCausalLM(config_of(shape)), GPTNeoXForCausalLM(config_of(shape))
    reference.load_state_dict(policy.state_dict())
    value, reward = (GPTNeoXForSequenceClassification(config_of(shape, num_labels=1)) for _ in range(2))
    rows, generator = batch * (load["updates"] + 1), torch.Generator().manual_seed(0)
    prompts = torch.randint(1, shape["vocabulary"], (rows, shape["query"]), generator=generator)
    clock = Clock()
    trainer = PPOTrainer(
        args=arguments_of(load, folder),
        processing_class=tokenizer_of(shape["vocabulary"]),
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": prompts.tolist()}),
        callbacks=[clock],
    )
    trainer.train()
    taken = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(clock.marks, clock.marks[1:])]
    if len(taken) != load["updates"] + 1:
        sys.exit(f"error: TRL made {len(taken)} updates where {load['updates'] + 1} were asked for")
    return taken[1:]


def main(load_file: str, result_file: str) -> None:
    load = json.loads(Path(load_file).read_text())
    torch.set_num_threads(load["threads"])
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        taken = timed_updates(load, folder)
    found = {
        "seconds": [wall for wall, _ in taken],
        "busy": [busy for _, busy in taken],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "trl": trl.__version__,
    }
    Path(result_file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
