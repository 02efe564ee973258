"""What the stages write for one another as JSON: one frozen class per file, which writes and reads itself.

Results hold no times, dates or machines, so that the same inputs give the same bytes. Those are in `LogRecord`.
"""

import json
from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError
from pipeline.files import write_atomically

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A frozen record on disk, checked when it is built and when it is read. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    command: ClassVar[str] = "aft run"
    """The command that writes the file, for messages; `{name}` stands for the name of the file."""

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all. Equal records give equal bytes.

        Raises:
            UserError: the file cannot be written.
        """
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(path, text + "\n")

    @classmethod
    def read(cls: type[R], path: Path, name: str = "") -> R:
        """Read a record that `write` wrote.

        Args:
            path: the file.
            name: what to put into the command of the message, such as the run.

        Raises:
            UserError: it is missing, damaged, or of another version; the line names the command to run.
        """
        command = cls.command.format(name=name or path.stem)
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run `{command}`") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); run `{command}` again") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            problem = f"{place}: {first['msg']}" if place else first["msg"]
            raise UserError(f"{path}: damaged, or of another version ({problem}); run `{command}` again") from None


def _without_nonfinite(scores: Any) -> Any:
    """JSON has no NaN and no inf: a score that is not finite is None."""
    if not isinstance(scores, dict):
        return scores
    return {name: None if isinstance(x, float) and not isfinite(x) else x for name, x in scores.items()}


Scores = Annotated[dict[str, float | None], BeforeValidator(_without_nonfinite)]
"""Scores by name of the metric. None where the value is NaN or infinite, as the loss of a diverged student."""


def mean_score(scores: Iterable[Scores], metric: str) -> float | None:
    """The mean of one metric, such as over seeds or splits; None where it is not known for all of them."""
    values = [of.get(metric) for of in scores]
    known = [value for value in values if value is not None]
    return fmean(known) if values and len(known) == len(values) else None


class LogRecord(Record):
    """logs/<stage>/<name>.json: how long a stage took, and where it ran.

    Attributes:
        seconds: wall time of the work that the result needed, over all calls that did a part of it.
        rows: rows that were processed in that time; None where there is no such number.
        trainings: trainings that were done now; the rest were found finished.
        device: such as `cpu` or `NVIDIA H100`.
        provenance: the commit and whether files differed from it, and the versions of libraries.
    """

    seconds: float
    rows: int | None = None
    trainings: int | None = None
    device: str = ""
    provenance: dict[str, Any] = Field(default_factory=dict)


class Metric(Record):
    """A score of a task: its name in records, how it is shown, and which direction is better.

    Attributes:
        name: the key in records, such as `accuracy`.
        label: in tables and sentences, such as `accuracy` or `RMSE`.
        unit: such as `kWh`; with `%` the score is a share of 1 and is shown as percent.
        higher_is_better: False for errors and losses.
    """

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool = True


class StudentRecord(Record):
    """The student of a run: its name in params.yaml, its family, what that reads, its size."""

    name: str
    family: str
    reads: str
    parameters: int
    width: int


class MethodRecord(Record):
    """A method of a run and its own settings."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class CandidateRecord(Record):
    """A weight per method and the settings tried with it, and the validation score of every seed.

    A score is None on a seed where the training diverged; such a candidate cannot be chosen.
    """

    weights: tuple[float, ...]
    settings: dict[str, Any] = Field(default_factory=dict)
    val_scores: tuple[float | None, ...] = Field(min_length=1)

    @property
    def complete(self) -> tuple[float, ...]:
        """The score of every seed; empty where a training diverged."""
        known = tuple(score for score in self.val_scores if score is not None)
        return known if len(known) == len(self.val_scores) else ()


class PenaltyRecord(Record):
    """A method's unweighted penalty at the last step, and its chance level: with the teachers' rows permuted."""

    end: float
    chance: float


class DiagnosticsRecord(Record):
    """How one seed's training behaved: whether the student collapsed, and how hard the methods pulled.

    Attributes:
        collapsed: the student predicts the same for every validation row.
        largest_share: the share of validation rows with the most frequent prediction; None where predictions are
            not classes.
    """

    seed: int
    collapsed: bool
    largest_share: float | None = None
    gradient_ratio_start: float | None = None
    gradient_ratio_end: float | None = None
    feature_spread_start: float | None = None
    feature_spread_end: float | None = None
    penalties: dict[str, PenaltyRecord] = Field(default_factory=dict)


class TrialRecord(Record):
    """trials/<digest>/trial.json: one training: what its result depends on, and what came of it.

    Attributes:
        inputs: all that the result depends on; the digest of this is the trial's name.
        diverged: when and why the training diverged; empty if it did not. The rest is then None or empty.
        score: the primary score on validation rows after the last step.
        parameters, width: of the student.
        curve: the lines of the log, by column.
        diagnostics: how the training behaved.
        gates: learned gates of the methods, by block of features.
        seconds: wall time of the training.
    """

    command: ClassVar[str] = "aft train RUN"

    inputs: dict[str, Any]
    diverged: str = ""
    score: float | None = None
    parameters: int | None = None
    width: int | None = None
    curve: tuple[dict[str, int | float], ...] = ()
    diagnostics: DiagnosticsRecord | None = None
    gates: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    seconds: float


class GatesRecord(Record):
    """runs/<run>/gates.json: learned gates of the chosen student, for methods that have some.

    Attributes:
        gates: by source, or whatever the method calls its parts, the gates [features] of every seed, in the order of
            the run's seeds.
    """

    command: ClassVar[str] = "aft train {name}"

    gates: dict[str, tuple[tuple[float, ...], ...]]


class RunRecord(Record):
    """runs/<run>/run.json: what was trained, what was tried, what was chosen.

    Attributes:
        splits: per seed, the digest of the split it was trained on.
        metric: the score that validation rows chose by.
        chosen, chosen_settings: the weights and settings of the chosen candidate.
        students: per seed, the sha256 of the chosen student's weights.
    """

    command: ClassVar[str] = "aft train {name}"

    run: str
    student: StudentRecord
    sources: tuple[str, ...]
    methods: tuple[MethodRecord, ...]
    shuffled_teacher: bool
    seeds: tuple[int, ...] = Field(min_length=1)
    splits: dict[str, str]
    labelled: int
    unlabelled: int
    steps: int
    settings: dict[str, Any]
    metric: Metric
    candidates: tuple[CandidateRecord, ...] = Field(min_length=1)
    chosen: tuple[float, ...]
    chosen_settings: dict[str, Any] = Field(default_factory=dict)
    trainings: int
    diagnostics: tuple[DiagnosticsRecord, ...]
    students: dict[str, str]

    @model_validator(mode="after")
    def _chosen_is_a_candidate(self) -> "RunRecord":
        tried = [(c.weights, c.settings) for c in self.candidates if c.complete]
        if len(self.chosen) != len(self.methods) or (self.chosen, self.chosen_settings) not in tried:
            raise ValueError("the chosen weights are not one per method, or not among the candidates, or diverged")
        return self


class SeedScores(Record):
    """The test scores of one seed's student on the test rows of its split, by name of the metric.

    Attributes:
        collapsed: the student predicts the same for every test row.
    """

    seed: int
    split: int
    scores: Scores
    collapsed: bool = False


class EvaluationRecord(Record):
    """evaluations/<run>.json: test scores of a run's students, and of its teachers' probe on the same rows.

    Attributes:
        metrics: what the scores are; the first is the primary one, which the report compares.
        outputs: names of the student's outputs, such as the classes.
        results: one per seed.
        probe: the same scores of the linear probe of the run's teachers; None without teachers.
    """

    command: ClassVar[str] = "aft evaluate {name}"

    run: str
    student: str
    sources: tuple[str, ...]
    task: str
    metrics: tuple[Metric, ...] = Field(min_length=1)
    outputs: tuple[str, ...]
    test_rows: int
    results: tuple[SeedScores, ...] = Field(min_length=1)
    probe: tuple[SeedScores, ...] | None

    @property
    def primary(self) -> Metric:
        """The metric that runs are compared by."""
        return self.metrics[0]

    def __str__(self) -> str:
        def mean(of: Iterable[SeedScores]) -> str:
            score = mean_score((each.scores for each in of), self.primary.name)
            return "unknown" if score is None else f"{score:.4f}"

        seeds = "1 seed" if len(self.results) == 1 else f"{len(self.results)} seeds"
        reference = f", the probe of its teachers {mean(self.probe)}" if self.probe else ""
        return f"{self.run}: test {self.primary.label} {mean(self.results)} over {seeds}{reference}"


class ProbeSplitRecord(Record):
    """The probes of one source on one split: what validation rows chose, and the scores.

    Attributes:
        strength: of the linear probe: the inverse of its L2 penalty.
        kernel_sharpness, kernel_strength: of the kernel probe.
        val, test: scores of the linear probe by name of the metric; `test` is empty without test rows.
        kernel_val, kernel_test: the same of the kernel probe.
    """

    split: int
    train_rows: int
    strength: float
    kernel_sharpness: float
    kernel_strength: float
    val: Scores
    test: Scores
    kernel_val: Scores
    kernel_test: Scores


class ProbeRecord(Record):
    """probes/<teacher>/<head>/probe.json: how well the probes of one source do."""

    command: ClassVar[str] = "aft probe {name}"

    source: str
    metrics: tuple[Metric, ...] = Field(min_length=1)
    splits: tuple[ProbeSplitRecord, ...] = Field(min_length=1)

    @property
    def primary(self) -> Metric:
        """The metric that probes are compared by."""
        return self.metrics[0]


class ProbeViewsRecord(Record):
    """probes/<teacher>/<head>/<family>.json: the views of every row that the probes of one source have outputs for.

    Attributes:
        views: digests of the features of views 1, 2 and so on.
    """

    command: ClassVar[str] = "aft probe TEACHER"

    views: tuple[str, ...]


class BundleRecord(Record):
    """bundles/<run>.json: digests of everything that the result of one run depends on."""

    command: ClassVar[str] = "aft join"

    run: str
    dataset: str
    sources: dict[str, dict[str, str]]
    code: str


class ManifestRecord(Record):
    """data/manifest.json, as far as the report reads it: what the prepared rows are, and what was left out.

    Attributes:
        kind: `text` or `image`.
        digest: of the ids and contents of all rows.
        classes: their names; empty where the task has none.
        splits: how many there are.
        rows_of_class: per split, by role, the rows of every class.
        dropped: rows of the source that were left out, by reason.
    """

    model_config = ConfigDict(extra="ignore")
    command: ClassVar[str] = "aft prepare"

    kind: str
    rows: int
    digest: str
    classes: tuple[str, ...] = ()
    without_label: int = 0
    splits: int
    rows_of_class: tuple[dict[str, tuple[int, ...]], ...] = ()
    dropped: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)


class DifferenceRecord(Record):
    """A mean paired difference and its 95% interval: the fields of `pipeline.functional.statistics.Paired`."""

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float | None
    wins: int
    n: int

    @property
    def inside_noise(self) -> bool:
        """Whether the interval holds 0, or there is none."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


class SourceRecord(Record):
    """A source of features, its width in numbers, and the bytes of a row in the store."""

    name: str
    width: int
    bytes_per_row: float


class SubsetScores(Record):
    """A subset of sources on one split. Test scores are for the reader: nothing is chosen by them.

    Attributes:
        strength: of the linear probe: the inverse of its L2 penalty, chosen on validation rows.
        val, test: scores of the linear probe by name of the metric; `test` is empty without test rows.
        neighbours: how many vote, chosen on validation rows.
        knn_val, knn_test: the same of the nearest neighbours.
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
    against_best: DifferenceRecord | None
    best_part: tuple[str, ...] | None
    gain: DifferenceRecord | None

    @property
    def name(self) -> str:
        """Its sources: `lite0 + lite2`."""
        return " + ".join(self.sources)

    @property
    def inside_noise(self) -> bool:
        """Whether the splits allow that it is as good as the best."""
        return self.against_best is None or self.against_best.inside_noise

    @property
    def logme(self) -> float:
        """LogME, mean over splits."""
        return fmean(score.logme for score in self.scores)

    def mean(self, what: str, metric: str) -> float | None:
        """The mean over splits of a metric; `what` is val, test, knn_val or knn_test. None where it is not known."""
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


class AssessmentRecord(Record):
    """assessments/teachers.json: what is known of sources, alone and together, before any student is trained.

    Attributes:
        dataset: digest of the dataset.
        stores: per source, the digest of its features.
        metrics: what the scores are; validation rows recommend by the first.
        splits: how many there are.
        labelled, val, test: rows of the first split.
        bank_rows: labelled rows that neighbours are searched in; fewer than `labelled` are a seeded sample.
        cka_rows: training rows that CKA compares, a seeded sample per split.
        subsets: from the fewest sources to the most.
        recommended: the sources of the subset to use.
        reasons: why, in a few sentences.
    """

    command: ClassVar[str] = "aft assess"

    dataset: str
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
    recommended: tuple[str, ...]
    reasons: tuple[str, ...] = Field(min_length=1)

    @property
    def primary(self) -> Metric:
        """The metric that subsets are compared by."""
        return self.metrics[0]

    def __str__(self) -> str:
        subsets = "1 subset" if len(self.subsets) == 1 else f"{len(self.subsets)} subsets"
        splits = "1 split" if self.splits == 1 else f"{self.splits} splits"
        sampled = f"neighbours among {self.bank_rows:,} labelled rows, CKA on {self.cka_rows:,} training rows"
        return "\n".join([f"assessed {subsets} on {splits} ({sampled})", *self.reasons])
