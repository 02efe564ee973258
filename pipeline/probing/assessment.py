"""What is known of teachers and of subsets of them before any student is trained: the record that `assess` writes."""

from dataclasses import dataclass

import numpy as np

from pipeline.functional.statistics import Paired, standard_error

PATH = "assessments/teachers.json"
"""Where it is, within the project's folder."""


@dataclass(frozen=True)
class Teacher:
    """A teacher and what it costs.

    Attributes:
        name: its key in params.yaml.
        width: numbers in a feature.
        bytes_per_row: that a feature takes in the store.
        seconds_per_row: that its extraction took; None if the store was not extracted here.
    """

    name: str
    width: int
    bytes_per_row: float
    seconds_per_row: float | None


@dataclass(frozen=True)
class Score:
    """A subset on one draw of the splits. Test accuracies are for the reader: nothing is chosen by them.

    Attributes:
        draw: its number.
        strength: of the probe, chosen on val.
        val_accuracy, val_log_loss, test_accuracy: of the probe; None without test rows.
        neighbours: how many vote, chosen on val.
        knn_val_accuracy, knn_test_accuracy: of their vote.
        logme: log evidence per labelled row; see `pipeline.functional.logme`.
    """

    draw: int
    strength: float
    val_accuracy: float
    val_log_loss: float
    test_accuracy: float | None
    neighbours: int
    knn_val_accuracy: float
    knn_test_accuracy: float | None
    logme: float


@dataclass(frozen=True)
class Subset:
    """Teachers used together, their features side by side.

    Attributes:
        teachers: their names.
        width, bytes_per_row, seconds_per_row: sums over the teachers; the last None if it is for one of them.
        scores: one per draw.
        against_best: the probe's val accuracy minus that of the best subset; None for the best itself.
        best_part: the best scored subset of this one; None for a single teacher.
        gain: the probe's val accuracy minus that of the best part.
        seconds: that scoring it took.
    """

    teachers: tuple[str, ...]
    width: int
    bytes_per_row: float
    seconds_per_row: float | None
    scores: tuple[Score, ...]
    against_best: Paired | None
    best_part: tuple[str, ...] | None
    gain: Paired | None
    seconds: float

    @property
    def name(self) -> str:
        """Its teachers: `lite0 + lite2`."""
        return " + ".join(self.teachers)

    @property
    def val_accuracy(self) -> float:
        """The probe's, mean over draws: what subsets are chosen by."""
        return self.mean("val_accuracy")

    @property
    def test_accuracy(self) -> float | None:
        """The probe's, mean over draws; None where a draw has no test rows."""
        return None if any(score.test_accuracy is None for score in self.scores) else self.mean("test_accuracy")

    @property
    def rows_per_second(self) -> float | None:
        """Of extraction, the teachers one after the other."""
        return 1 / self.seconds_per_row if self.seconds_per_row else None

    @property
    def inside_noise(self) -> bool:
        """Whether the draws allow that it is as good as the best."""
        return self.against_best is None or self.against_best.inside_noise

    def mean(self, what: str) -> float:
        """The mean over draws of a field of `Score`."""
        return float(np.mean([getattr(score, what) for score in self.scores]))

    def error(self, what: str) -> float | None:
        """The standard error of that mean; None for one draw."""
        return standard_error([getattr(score, what) for score in self.scores])


@dataclass(frozen=True)
class Pair:
    """Two teachers, per draw: how alike their kernels are, and whether their probes err on the same rows.

    Attributes:
        teachers: their names.
        cka: debiased, on the sample of training rows; 1 is the same kernel, 0 unrelated.
        one_right: the share of val rows that exactly one of their probes has right.
        by_chance: what that share would be if being right were independent between them.
    """

    teachers: tuple[str, str]
    cka: tuple[float, ...]
    one_right: tuple[float, ...]
    by_chance: tuple[float, ...]

    @property
    def name(self) -> str:
        """Both names: `lite0 + lite2`."""
        return " + ".join(self.teachers)


@dataclass(frozen=True)
class Start:
    """How near a student's kernel is to a teacher's before it has learned anything: debiased CKA per draw."""

    teacher: str
    student: str
    cka: tuple[float, ...]


@dataclass(frozen=True)
class Assessment:
    """What `assess` returns and writes.

    Attributes:
        dataset: digest of the dataset.
        stores: per teacher, the digest of its features.
        draws: how many draws of the splits there are.
        labelled, val, test: rows of the first draw.
        bank_rows: labelled rows that neighbours are searched in; fewer than `labelled` are a seeded sample.
        cka_rows: training rows that CKA compares, a seeded sample per draw.
        teachers, subsets, pairs, starts: subsets from the fewest teachers to the most.
        recommended: the teachers of the subset to use.
        reasons: why, in a few sentences.
        seconds: wall time.
    """

    dataset: str
    stores: dict[str, str]
    draws: int
    labelled: int
    val: int
    test: int
    bank_rows: int
    cka_rows: int
    teachers: tuple[Teacher, ...]
    subsets: tuple[Subset, ...]
    pairs: tuple[Pair, ...]
    starts: tuple[Start, ...]
    recommended: tuple[str, ...]
    reasons: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        subsets = "1 subset" if len(self.subsets) == 1 else f"{len(self.subsets)} subsets"
        draws = "1 draw" if self.draws == 1 else f"{self.draws} draws"
        sampled = f"neighbours among {self.bank_rows:,} labelled rows, CKA on {self.cka_rows:,} training rows"
        return "\n".join([f"assessed {subsets} on {draws} in {self.seconds:.1f} s ({sampled})", *self.reasons])
