"""A recorded study: its plan, its runs, and tidy frames of everything measured."""

from dataclasses import dataclass, field

import pandas as pd

from repro import record


def no_ceiling() -> pd.DataFrame:
    """The final values of a ceiling that was not run."""
    return pd.DataFrame({"seed": pd.Series(dtype=int), "metric": pd.Series(dtype=str), "value": pd.Series(dtype=float)})


@dataclass(frozen=True)
class Study:
    """A recorded ablation: arms (reference first) by seeds, with tidy frames of everything measured."""

    uri: str  # of the store
    detail: str
    scale: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    tags: dict[str, str]  # the plan: question, hypothesis, predictions, primary, ...
    amended: tuple[str, ...]  # parts of the plan that differ between runs, replaced runs included
    curves: pd.DataFrame  # detail, arm, seed, step [episodes], metric, value
    finals: pd.DataFrame  # arm, seed, metric, value
    runs: pd.DataFrame  # one row per arm and seed: run_id, outcome, stage.*, provenance
    samples: dict[tuple[str, int], pd.DataFrame]  # (arm, seed) -> one row per post, the same posts everywhere
    # parameter -> its values over the runs: every field of the scale as `scale.field`, and of every detail the label
    params: dict[str, tuple[str, ...]] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()  # sentences on what cannot be read, or does not belong together
    # seed, metric, value: final values of the reference with the gold score as reward; no rows where the store has none
    ceiling: pd.DataFrame = field(default_factory=no_ceiling)

    @property
    def reference(self) -> str:
        """Label of the reference arm."""
        return self.arms[0]

    @property
    def does(self) -> dict[str, str]:
        """Arm -> what its variant does, of the arms that say it: runs of earlier versions do not."""
        told = self.runs[self.runs[record.DOES] != ""].sort_values("asked", kind="stable")  # the newest decides
        return dict(zip(told["arm"], told[record.DOES], strict=True))

    @property
    def primary(self) -> str:
        """Name of the metric that decides the verdict."""
        return self.tags[record.PRIMARY]

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger primary metric is the better one."""
        return record.is_set(self.tags, record.HIGHER_IS_BETTER)

    @property
    def smallest_effect(self) -> float:
        """Smallest difference on the primary metric that matters, in its unit; NaN where it was not recorded."""
        return record.smallest_effect(self.tags)

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which a sequential study is tested; empty where the number of seeds was fixed."""
        return record.looks(self.tags)

    @property
    def expected(self) -> dict[str, str | dict[str, str]]:
        """The predictions: metric -> up, down or same, relative to the reference, or for each arm one of these."""
        return record.expected(self.tags)
