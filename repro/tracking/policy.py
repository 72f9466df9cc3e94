"""A run's final policy as a model that MLflow itself loads: `mlflow.transformers.load_model("runs:/RUN_ID/policy")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import mlflow
import mlflow.transformers
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus

from repro import record
from repro.errors import UserError
from repro.models import pretrained
from repro.tracking.address import store_uri

if TYPE_CHECKING:  # imported where it is used, since it takes seconds and most verbs pack no policy
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "policy"
CHECKPOINT = "checkpoint"  # tag of a run whose policy is too large to copy: the folder that it lies in
REQUIREMENTS = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers", "accelerate")]


class CannotPackage(Exception):
    """A checkpoint cannot be loaded, or MLflow cannot save it."""


Save = Callable[[Path], None]  # writes the model to a folder that is not there yet


def publish(store: MlflowClient, experiment: str, run: str, tags: Mapping[str, str], save: Save) -> str:
    """Id of the run's policy in the store, which is added where there is none; an incomplete one is deleted."""
    found = store.search_logged_models([experiment], f"source_run_id = '{run}'")
    ready = [each for each in found if each.status == LoggedModelStatus.READY]
    for each in found:
        if each not in ready:
            store.delete_logged_model(each.model_id)
    made = ready[0] if ready else _log(store, experiment, run, tags, save)
    if made.model_id not in {each.model_id for each in store.get_run(run).outputs.model_outputs}:
        store.log_outputs(run, [LoggedModelOutput(made.model_id, step=0)])
    return made.model_id


def _log(store: MlflowClient, experiment: str, run: str, tags: Mapping[str, str], save: Save) -> LoggedModel:
    made = store.create_logged_model(experiment, NAME, source_run_id=run, tags=dict(tags), model_type="policy")
    with TemporaryDirectory() as place:
        try:
            save(Path(place) / NAME)
        except UserError:
            raise
        except Exception as error:  # any error of a library about a damaged file or an unknown kind of model
            raise CannotPackage(f"{type(error).__name__}: {error}") from error
        store.log_model_artifacts(made.model_id, str(Path(place) / NAME))
    return store.finalize_logged_model(made.model_id, LoggedModelStatus.READY)


def load(run: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A run's final policy and its tokenizer; UserError where the store in use has none."""
    from transformers.utils import logging

    recorded = MlflowClient(tracking_uri=store_uri()).get_run(run)
    logging.disable_progress_bar()
    if recorded.outputs.model_outputs:
        mlflow.set_tracking_uri(store_uri())
        address = f"models:/{recorded.outputs.model_outputs[-1].model_id}"
        parts = mlflow.transformers.load_model(address, return_type="components")
        return parts["model"].eval(), parts["tokenizer"]
    checkpoint = recorded.data.tags.get(CHECKPOINT, "")
    if not checkpoint or not Path(checkpoint).is_dir():
        raise UserError(f"run {run} has no policy in the store" + f", and {checkpoint} is not here" * bool(checkpoint))
    tokenizer = Path(checkpoint).parents[1] / recorded.data.tags[record.stage_tag("data")] / "tokenizer"
    return pretrained.load_policy(Path(checkpoint)).eval(), _load_tokenizer(tokenizer)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def save(checkpoint: Path, tokenizer: Path, response_tokens: int, folder: Path) -> None:
    """Save a policy and its tokenizer in MLflow's format, to generate greedily at most `response_tokens` tokens."""
    from transformers.utils import logging

    # MLflow can copy files without loading them, but that path does not work with transformers 5.
    logging.disable_progress_bar()
    network, words = pretrained.load_policy(checkpoint), _load_tokenizer(tokenizer)
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    network.generation_config.update(do_sample=False, max_new_tokens=response_tokens, **ends)
    # The path would be of this machine; and MLflow looks on the hub for a name that a hub could have.
    network.name_or_path = network.config.name_or_path = f"{NAME}/{checkpoint.parent.name}/{checkpoint.name}"
    mlflow.transformers.save_model(
        {"model": network, "tokenizer": words},
        folder,
        task="text-generation",
        model_config={"return_full_text": False},  # the generated text without the prompt
        pip_requirements=REQUIREMENTS,
    )
    (folder / "LICENSE.txt").unlink(missing_ok=True)  # it only refers to the hub
