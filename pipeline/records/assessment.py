"""Records of `aft assess`: sources, alone and combined."""

from statistics import fmean
from typing import ClassVar

from pydantic import Field

from pipeline.errors import count
from pipeline.functional.statistics import Paired
from pipeline.records.record import Metric, Record, Scores, mean_score


class SourceRecord(Record):
    """A source of features: its width in numbers, and its bytes per row in the store."""

    name: str
    width: int
    bytes_per_row: float


class SubsetScores(Record):
    """A subset of sources on one split. Test scores are only shown: nothing is chosen by them.

    Attributes:
        strength: of the linear probe: the inverse of its L2 penalty, chosen on validation rows.
        val, test: scores of the linear probe by name of the metric; `test` is empty without test rows.
        neighbours: how many vote, chosen on validation rows.
        knn_val, knn_test: the same for nearest neighbours.
        logme: log evidence per labelled row; see `pipeline.functional.logme`.
    """

    split: int
    strength: float
    val: Scores
    test: Scores
    neighbours: int
    knn_val: Scores
    knn_test: Scores
    logme: float


class SubsetRecord(Record):
    """Sources used together, their features concatenated.

    Attributes:
        sources: their names.
        width, bytes_per_row: sums over the sources.
        scores: one per split.
        against_best: the linear probe's validation score minus that of the best subset; None for the best itself.
        best_part: the best scored subset of this one; None for a single source.
        gain: the linear probe's validation score minus that of the best part.
    """

    sources: tuple[str, ...] = Field(min_length=1)
    width: int
    bytes_per_row: float
    scores: tuple[SubsetScores, ...] = Field(min_length=1)
    against_best: Paired | None
    best_part: tuple[str, ...] | None
    gain: Paired | None

    @property
    def name(self) -> str:
        """Its sources: `lite0 + lite2`."""
        return " + ".join(self.sources)

    @property
    def inside_noise(self) -> bool:
        """Whether it may be as good as the best, as far as the splits can tell."""
        return self.against_best is None or self.against_best.inside_noise

    @property
    def logme(self) -> float:
        """LogME, mean over splits."""
        return fmean(score.logme for score in self.scores)

    def mean(self, what: str, metric: str) -> float | None:
        """The mean over splits of a metric; `what` is val, test, knn_val or knn_test. None where it is unknown."""
        return mean_score((getattr(score, what) for score in self.scores), metric)


class PairRecord(Record):
    """Two sources, per split: how alike their kernels are, and whether their probes are wrong on the same rows.

    Attributes:
        cka: debiased, on a sample of training rows; 1 is the same kernel, 0 unrelated.
        one_right: the share of validation rows on which exactly one of the two probes is right; empty for a task
            without right and wrong.
        by_chance: what that share would be if being right were independent between them.
    """

    sources: tuple[str, str]
    cka: tuple[float, ...]
    one_right: tuple[float, ...] = ()
    by_chance: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """Both names: `lite0 + lite2`."""
        return " + ".join(self.sources)


class StartRecord(Record):
    """How close an untrained student's kernel is to that of a source: debiased CKA per split."""

    source: str
    student: str
    cka: tuple[float, ...]


class ViewsRecord(Record):
    """One set of views of a source, or its clean rows, per split; see `pipeline.probing.policies`.

    Attributes:
        family: of the views; empty for clean rows.
        count: views of each row.
        spread: of the linear probe's mean prediction over groups of training rows; the smaller, the less the teacher
            repeats itself.
        val: the probe's primary score on views of validation rows, the clean row not among them, mean over views.
    """

    source: str
    family: str
    count: int
    spread: tuple[float, ...]
    val: tuple[float, ...]

    @property
    def name(self) -> str:
        """The source with its view: `lite0@crops`, or `lite0` for clean rows."""
        return f"{self.source}@{self.family}" if self.family else self.source

    @property
    def mean_spread(self) -> float:
        """Mean over splits."""
        return fmean(self.spread)


class AssessmentRecord(Record):
    """assessments/teachers.json: what is known about sources, alone and combined, before any student is trained.

    Attributes:
        data: digest of the prepared dataset.
        stores: per source, the digest of its features.
        metrics: of the scores; the recommendation uses the first, on validation rows.
        splits: how many there are.
        labelled, val, test: rows of the first split.
        bank_rows: labelled rows that neighbours are searched in; a seeded sample if fewer than `labelled`.
        cka_rows: training rows that CKA compares, a seeded sample per split.
        subsets: from the fewest sources to the most.
        views: of each source that has any, and its clean rows, the smallest spread first.
        recommended: the sources of the subset to use.
        reasons: why, in a few sentences.
    """

    command: ClassVar[str] = "aft assess"

    data: str
    stores: dict[str, str]
    metrics: tuple[Metric, ...] = Field(min_length=1)
    splits: int
    labelled: int
    val: int
    test: int
    bank_rows: int
    cka_rows: int
    sources: tuple[SourceRecord, ...]
    subsets: tuple[SubsetRecord, ...] = Field(min_length=1)
    pairs: tuple[PairRecord, ...]
    starts: tuple[StartRecord, ...]
    views: tuple[ViewsRecord, ...] = ()
    recommended: tuple[str, ...]
    reasons: tuple[str, ...] = Field(min_length=1)

    @property
    def primary(self) -> Metric:
        """The metric that subsets are compared by."""
        return self.metrics[0]

    def __str__(self) -> str:
        subsets = count(len(self.subsets), "subset")
        splits = count(self.splits, "split")
        sampled = (
            f"neighbours among {count(self.bank_rows, 'labelled row')}, CKA on {count(self.cka_rows, 'training row')}"
        )
        return "\n".join([f"assessed {subsets} on {splits} ({sampled})", *self.reasons, *self._of_views()])

    def _of_views(self) -> list[str]:
        """A line for each source with views: their spreads, smallest first."""
        lines = []
        for source in dict.fromkeys(views.source for views in self.views):
            ranked = [views for views in self.views if views.source == source]
            spreads = ", ".join(f"{views.family or 'clean'} {views.mean_spread:.3g}" for views in ranked)
            lines.append(f"views of {source}, by the spread of its mean prediction, smaller is better: {spreads}")
        return lines
