"""How fast an extraction is, next to its model alone, and what holds it up."""

from pipeline.extraction.worker import Done

MODEL_BOUND = 0.9
"""From this share of the time on, the model is what takes the time."""


class Speed:
    """Adds up what workers wait for."""

    def __init__(self) -> None:
        self.seconds = self.reading = self.computing = self.writing = 0.0

    def add(self, done: Done) -> None:
        """Take in what a worker has done."""
        self.seconds += done.seconds
        self.reading += done.reading
        self.computing += done.computing
        self.writing += done.writing

    @property
    def share(self) -> float:
        """Of the time, the share in which the model computes: the rate over that of the model alone."""
        return min(1.0, self.computing / max(self.seconds, 1e-9))

    @property
    def bottleneck(self) -> str:
        """What takes the time: the model, reading rows, or the disk."""
        if self.share >= MODEL_BOUND:
            return "the model"
        return "reading rows" if self.reading >= self.writing else "the disk"

    def __str__(self) -> str:
        return f"{self.share:.0%} of the bare model, held up by {self.bottleneck}" if self.computing else ""
