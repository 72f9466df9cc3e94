"""A study as it was recorded: its plan, its runs, and tidy frames of all that was measured."""

from dataclasses import dataclass

import pandas as pd

from repro import record


@dataclass(frozen=True)
class Study:
    """One ablation as it was recorded: arms (reference first) by seeds, with tidy frames of everything measured."""

    uri: str  # of the store
    detail: str
    scale: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    tags: dict[str, str]  # the plan: question, hypothesis, moves, primary, ...
    amended: tuple[str, ...]  # parts of the plan that differ between runs, replaced runs included
    curves: pd.DataFrame  # detail, arm, seed, step [episodes], metric, value
    finals: pd.DataFrame  # arm, seed, metric, value
    runs: pd.DataFrame  # one row per arm and seed: run_id, outcome, stage.*, provenance
    samples: dict[tuple[str, int], pd.DataFrame]  # (arm, seed) -> one row per post, the same posts everywhere
    troubles: tuple[str, ...] = ()  # what could not be read, or does not belong together, a sentence each

    @property
    def reference(self) -> str:
        """Label of the arm that every difference is taken to."""
        return self.arms[0]

    @property
    def primary(self) -> str:
        """Name of the metric that the verdict is about."""
        return self.tags[record.PRIMARY]

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger primary metric is the better one."""
        return record.is_set(self.tags, record.HIGHER_IS_BETTER)

    @property
    def smallest_effect(self) -> float:
        """Smallest difference on the primary metric that anyone would act on, in its unit."""
        return record.smallest_effect(self.tags)

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which the study is judged while it grows; none where its seeds were fixed beforehand."""
        return record.looks(self.tags)

    @property
    def expected(self) -> dict[str, str]:
        """Metric -> up, down or same: what the arms were expected to do relative to the reference."""
        return record.expected(self.tags)
