"""The atlas: the studies of many details on one board, so that every stage they share is made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro import ablation, cost, launch, pipeline, stage
from repro.ablation import Ablation
from repro.detail import Recipe
from repro.details import DETAILS
from repro.errors import UserError
from repro.launch import Board, Job

if TYPE_CHECKING:  # it brings MLflow, and a plan of the atlas tracks nothing
    from repro.track import Tracker


def studies(
    names: Sequence[str], scale: str, seeds: Sequence[str], changes: Mapping[str, str], cache: Path
) -> list[Ablation]:
    """The studies of the named details, or of all; those with the least left to run come first."""
    found = [ablation.in_atlas(name, scale, seeds, changes) for name in dict.fromkeys(names or DETAILS)]
    return sorted(found, key=lambda study: _left(study, cache))


def _left(study: Ablation, cache: Path) -> float:
    """Core-seconds of the study's own stages; the reference's are everybody's."""
    shared = _reference_jobs(study)
    own = {key: job for key, job in launch.jobs_of(study).items() if key not in shared}
    return cost.seconds([job for key, job in own.items() if not stage.cached(cache / key)], cache)


def _reference_jobs(study: Ablation) -> dict[str, Job]:
    """The stages of the reference arm, which are the same in every study."""
    return launch.jobs_of(study, arms=[study.detail.reference])


def recipes(found: Sequence[Ablation]) -> list[Recipe]:
    """One recipe for each way in which the data is made."""
    by_key = {
        pipeline.keys(recipe, study.scale, 0)["data"]: recipe for study in found for recipe in study.arms.values()
    }
    return list(by_key.values())


def board_of(found: Sequence[Ablation], cache: Path) -> Board:
    """The jobs of all studies: the references' first, then study by study."""
    jobs = _reference_jobs(found[0])
    for study in found:
        jobs |= {key: job for key, job in launch.jobs_of(study).items() if key not in jobs}
    return launch.board_for(jobs, cache)


class Trackers:
    """Publishes each study of an atlas from when the first of its own stages starts; see `track.Tracker`."""

    def __init__(self, found: Sequence[Ablation], board: Board, command: str) -> None:
        self.board, self.command, self.trouble = board, command, ""
        shared = _reference_jobs(found[0]).keys()
        self.waiting = [(study, launch.jobs_of(study).keys() - shared) for study in found]
        self.open: list[Tracker] = []

    def update(self) -> None:
        """Open the studies that have begun, publish what is new, and let go of those that are over."""
        trouble = ""
        try:
            for study in self._begun()[:1]:  # one at a time: it takes a second
                self._open(study)
        except UserError as error:  # the store does not answer: what waits for it is in the stages' folders
            trouble = str(error)
        for tracker in self.open:
            tracker.update()
        self.trouble = next((tracker.trouble for tracker in self.open if tracker.trouble), trouble)
        self.open = [tracker for tracker in self.open if not tracker.over]

    def close(self) -> None:
        """Publish the rest of the studies that have begun; a UserError where the store does not answer."""
        for study in self._begun():
            self._open(study)
        for tracker in self.open:
            tracker.close()

    def _begun(self) -> list[Ablation]:
        """The studies not yet open of which a stage of their own runs, or has ended."""
        begun = self.board.running.keys() | self.board.done | self.board.failed.keys()
        return [study for study, own in self.waiting if begun & own]

    def _open(self, study: Ablation) -> None:
        from repro.track import Tracker

        self.open.append(Tracker(study, self.board, self.command))
        self.waiting = [each for each in self.waiting if each[0] is not study]
