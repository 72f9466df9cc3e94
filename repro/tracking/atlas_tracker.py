"""Tracks an atlas: each of its studies has a `track.Tracker` from its first own stage to its last."""

from collections.abc import Sequence

from repro.engine.atlas import reference_jobs
from repro.engine.dag import Dag, jobs_of
from repro.errors import UserError
from repro.study.ablation import Ablation
from repro.tracking import track


class AtlasTracker:
    """Opens a `track.Tracker` for each study when a stage starts that only this study needs, and passes updates on."""

    def __init__(self, studies: Sequence[Ablation], dag: Dag, command: str) -> None:
        self.dag, self.command, self.trouble = dag, command, ""
        shared = reference_jobs(studies[0]).keys()
        self.waiting = [(study, jobs_of(study).keys() - shared) for study in studies]
        self.open: list[track.Tracker] = []

    def update(self) -> None:
        """Open the trackers of studies that have begun, publish new metrics, and drop trackers that have published all."""
        trouble = ""
        try:
            for study in self._begun()[:1]:  # one per update: it takes a second
                self._open(study)
        except UserError as error:  # the store does not answer; the journals keep what is not published yet
            trouble = str(error)
        for tracker in self.open:
            tracker.update()
        self.trouble = next((tracker.trouble for tracker in self.open if tracker.trouble), trouble)
        self.open = [tracker for tracker in self.open if not tracker.ended]

    def close(self) -> None:
        """Publish the rest of all studies that have begun; UserError where the store does not answer."""
        for study in self._begun():
            self._open(study)
        for tracker in self.open:
            tracker.close()

    def _begun(self) -> list[Ablation]:
        """The studies without a tracker of which an own stage runs or has ended."""
        begun = self.dag.running.keys() | self.dag.done | self.dag.failed.keys()
        return [study for study, own in self.waiting if begun & own]

    def _open(self, study: Ablation) -> None:
        self.open.append(track.Tracker(study, self.dag, self.command))
        self.waiting = [each for each in self.waiting if each[0] is not study]
