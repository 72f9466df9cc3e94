"""The trackers of an atlas: each of its studies is published from when a stage of its own begins until it is over."""

from collections.abc import Sequence

from repro.engine import launch
from repro.engine.atlas import reference_jobs
from repro.engine.launch import Board
from repro.errors import UserError
from repro.study.ablation import Ablation
from repro.tracking import track


class Trackers:
    """Publishes each study of an atlas from when the first of its own stages starts; see `track.Tracker`."""

    def __init__(self, found: Sequence[Ablation], board: Board, command: str) -> None:
        self.board, self.command, self.trouble = board, command, ""
        shared = reference_jobs(found[0]).keys()
        self.waiting = [(study, launch.jobs_of(study).keys() - shared) for study in found]
        self.open: list[track.Tracker] = []

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
        self.open.append(track.Tracker(study, self.board, self.command))
        self.waiting = [each for each in self.waiting if each[0] is not study]
