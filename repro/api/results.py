"""What a study found, as the MLflow store has it: verdicts and curves as pandas frames, its page, its policies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repro.api.folders import REPORTS
from repro.detail import Detail
from repro.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from repro.reports.reading.study import Study
    from repro.tracking.registry import Registered

SUMMARY = ("difference", "low", "high", "n")  # of the verdicts, those that are numbers
EPISODE = ["logprob", "ref_logprob", "value", "reward", "advantage", "returns"]
VERDICT = ["n", "difference", "low", "high", "verdict", "sentence"]


class Policy(NamedTuple):
    """A trained policy and its tokenizer, as transformers has them."""

    model: Any  # GPTNeoXForCausalLM, in evaluation mode
    tokenizer: Any


@dataclass(frozen=True)
class Results:
    """A study as it was recorded. `print(results)` gives its verdicts in words."""

    recorded: Study
    failures: dict[str, str] = field(default_factory=dict)  # "stage arm seed N" -> why, of the runs just made

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row per arm but the reference: n, difference, low, high, verdict, sentence.

        `difference` is the mean over n paired seeds of the arm's primary metric less the reference's, in the metric's unit;
        `low` and `high` are the ends of its interval, which holds over all looks where the study grows. `verdict` is
        "better", "worse", "no difference", "identical" or "undecided".
        """
        from repro.reports.pages import page
        from repro.reports.statistics.findings import analyse

        rows = analyse(self.recorded).verdicts.copy()
        rows["sentence"] = [page.sentence(row, self.recorded) for row in rows.itertuples()]
        return rows.rename(columns={"mean": "difference"}).set_index("arm")[VERDICT]

    @property
    def ceiling(self) -> pd.DataFrame:
        """One row per arm, the reference first: n, difference, low, high, share; no rows where the store has no ceiling.

        `difference` is the mean over n paired seeds of the arm's primary metric less the ceiling's, with the ends of its 95 %
        interval. `share` is how much of the way from before PPO to the ceiling the arm goes. The ceiling is the reference with
        the gold score as reward.
        """
        from repro.reports.statistics import ceiling

        return ceiling.gaps(self.recorded).rename(columns={"mean": "difference"}).set_index("arm")

    @property
    def summary(self) -> dict[str, float]:
        """The study in numbers, under the names that its parent run in MLflow has them by; what is not known is left out.

        Of each arm but the reference `difference/ARM` with `low/ARM`, `high/ARM` and `n/ARM`, as in `verdicts`; of every arm
        `before_ppo/ARM` and `after_ppo/ARM`, means over seeds of the primary metric.
        """
        rows = self.verdicts
        found = {f"{name}/{arm}": float(rows.loc[arm, name]) for arm in rows.index for name in SUMMARY}
        return {name: value for name, value in (found | self._means()).items() if math.isfinite(value)}

    def _means(self) -> dict[str, float]:
        """The mean over seeds of the primary metric, after PPO and before it where it was measured."""
        names = {f"sft_{self.recorded.primary}": "before_ppo", self.recorded.primary: "after_ppo"}
        chosen = self.finals[self.finals["metric"].isin(names)]
        means = chosen.groupby(["metric", "arm"])["value"].mean()
        return {f"{names[metric]}/{arm}": float(value) for (metric, arm), value in means.items()}

    @property
    def curves(self) -> pd.DataFrame:
        """Every metric in training: arm, seed, step, metric, value. A step is an episode of PPO, else one of the optimizer."""
        return self.recorded.curves[["arm", "seed", "step", "metric", "value"]]

    @property
    def finals(self) -> pd.DataFrame:
        """Every final value: arm, seed, metric, value; `repro.study.metrics.METRICS` defines the metrics."""
        return self.recorded.finals

    def samples(self, arm: str, seed: int) -> pd.DataFrame:
        """Test posts with the summaries of one run's policy: post_id, query, reference, summary, score, length, ended."""
        if (arm, seed) not in self.recorded.samples:
            raise UserError(
                f"no samples of {arm} seed {seed} are recorded; there are those of {_listed(self.recorded.samples)}"
            )
        return self.recorded.samples[arm, seed]

    def episodes(self, arm: str, seed: int) -> pd.DataFrame:
        """Training episodes of one run that were kept token by token: a row per token, and one for the terminal state if any.

        Columns: episode, update, token, logprob, ref_logprob, value, reward, advantage (as in the loss), returns.
        """
        import pandas as pd

        from repro.reports.pages.tokens import policy_numbers
        from repro.reports.reading.episodes import read_traces

        traces = read_traces(self.recorded)
        if (arm, seed) not in traces:
            raise UserError(f"no episodes of {arm} seed {seed} are recorded; there are those of {_listed(traces)}")
        rows = []
        for each in traces[arm, seed].episodes:
            numbers = pd.DataFrame(policy_numbers(each["policy"]))[EPISODE]
            tokens = dict(enumerate(each["policy"]["tokens"]))
            numbers.insert(0, "token", [tokens.get(place, "") for place in numbers.index])
            numbers.insert(0, "update", each.get("update"))
            numbers.insert(0, "episode", each["episode"])
            rows.append(numbers)
        return pd.concat(rows, ignore_index=True)

    def page(self, folder: Path | str = "") -> Path:
        """Build the study's page with its figures in `folder` (under reports/build/ by default); its index.html."""
        from repro.reports.pages import markup, page

        own = REPORTS / markup.folder(self.recorded.detail, self.recorded.scale)
        return page.build(self.recorded, Path(folder) if folder else own)

    def policy(self, arm: str, seed: int) -> Policy:
        """The final policy of one run, from the store; UserError where the store has none of it."""
        from repro.tracking import policy

        runs = self.recorded.runs
        found = runs.loc[(runs["arm"] == arm) & (runs["seed"] == seed), "run_id"].tolist()
        if not found:
            raise UserError(f"there is no run of {arm} seed {seed}; there are {_listed(self.recorded.samples)}")
        return Policy(*policy.load(found[0]))

    def register(self) -> Registered:
        """Register every final policy in MLflow's model registry: a model for each arm, a version for each seed.

        `mlflow.transformers.load_model("models:/whiten_adv-mini-off@seed-1")` loads one. Each version has detail, scale, arm,
        seed and the arm's verdict as tags. Done again, it adds what is new and no second version of anything.
        """
        from repro.tracking import registry

        words = self.verdicts["verdict"].to_dict()
        return registry.register_policies(self.recorded.detail, self.recorded.scale, words, REPORTS)

    def __str__(self) -> str:
        return "\n".join(self.verdicts["sentence"])


def _listed(runs: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{arm} seed {seed}" for arm, seed in runs) or "none"


def read_results(detail: Detail | str, scale: str = "mini") -> Results:
    """A recorded study of the MLflow store in use (MLFLOW_TRACKING_URI); UserError where there is none.

    `scale` is the name under which the study was recorded: with changed fields it is `mini-episodes=512`, say.
    """
    from repro.reports.reading import studies
    from repro.tracking.store import store_uri, usable_store

    name = detail.name if isinstance(detail, Detail) else detail
    with usable_store():
        return Results(studies.read_study(name, scale, store_uri()))
