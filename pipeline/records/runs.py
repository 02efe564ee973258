"""Records of `aft join`, `aft train` and `aft evaluate`: one run."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.errors import count
from pipeline.provenance import digest_of
from pipeline.records.record import Metric, Record, Scores, mean_score


class BundleRecord(Record):
    """bundles/run/<run>.json: digests of everything that the result of one run depends on."""

    command: ClassVar[str] = "aft join"

    run: str
    dataset: str
    sources: dict[str, dict[str, str]]
    code: str


class StudentRecord(Record):
    """The student of a run: its name in params.yaml, its family, what the family reads, and its size.

    Attributes:
        solved: it is solved for, as tf-idf with logistic regression is, and not trained step by step.
    """

    name: str
    family: str
    reads: str
    solved: bool = False
    parameters: int
    width: int

    @property
    def trains(self) -> bool:
        """Whether it is trained step by step on rows, so that a run without methods is plain training."""
        return not self.solved and self.reads != "features"


class MethodRecord(Record):
    """A method of a run, and its settings."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class CandidateRecord(Record):
    """A weight per method, the settings tried with it, and the validation scores by seed, in the run's order.

    A score is None for a seed whose training diverged; such a candidate cannot be chosen.

    Attributes:
        dropped: it was clearly worse than another candidate, or diverged, on the first seeds, and only has their
            scores; see `pipeline.training.race`. It cannot be chosen either.
    """

    weights: tuple[float, ...]
    settings: dict[str, Any] = Field(default_factory=dict)
    val_scores: tuple[float | None, ...] = Field(min_length=1)
    dropped: bool = False

    @property
    def finite(self) -> tuple[float, ...]:
        """The score of every seed that it was trained on; empty where a training diverged."""
        known = tuple(score for score in self.val_scores if score is not None)
        return known if len(known) == len(self.val_scores) else ()


class PenaltyRecord(Record):
    """A method's unweighted penalty at the last step, and its chance level: with the teachers' rows permuted."""

    end: float
    chance: float


class MixtureRecord(Record):
    """How a student's last layer was mixed after training: `trained` of its own outputs, and `fitted` of another's.

    Attributes:
        strength: the inverse of the penalty of the other layer, which was fitted to the labels alone.
    """

    trained: float
    fitted: float
    strength: float


class DiagnosticsRecord(Record):
    """How one seed's training behaved: whether the student collapsed, and how strong the penalties were.

    Attributes:
        kept: the steps after which the student was kept, where early stopping went back to it.
        collapsed: the student predicts the same for every validation row.
        largest_share: the share of validation rows with the most frequent prediction; None where predictions are
            not classes.
        mixture: of the last layer, where the run or a method asks for it.
    """

    seed: int
    kept: int | None = None
    collapsed: bool
    largest_share: float | None = None
    gradient_ratio_start: float | None = None
    gradient_ratio_end: float | None = None
    feature_spread_start: float | None = None
    feature_spread_end: float | None = None
    penalties: dict[str, PenaltyRecord] = Field(default_factory=dict)
    mixture: MixtureRecord | None = None


class TrialRecord(Record):
    """trials/<digest>/trial.json: one training: what its result depends on, and the result.

    Attributes:
        inputs: everything that the result depends on; its digest is the trial's name.
        diverged: when and why the training diverged, and the rest is None or empty; empty if it did not.
        scores: on validation rows, by name of the metric, of the student that is kept.
        parameters, width: of the student.
        curve: the lines of the log, by column.
        diagnostics: how the training behaved.
        gates: learned gates of the methods, by block of features.
        seconds: wall time of the training.
    """

    command: ClassVar[str] = "aft train RUN"

    inputs: dict[str, Any]
    diverged: str = ""
    scores: Scores = Field(default_factory=dict)
    parameters: int | None = None
    width: int | None = None
    curve: tuple[dict[str, int | float], ...] = ()
    diagnostics: DiagnosticsRecord | None = None
    gates: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    seconds: float


class GatesRecord(Record):
    """runs/<run>/gates.json: learned gates of the chosen student, for methods that have some.

    Attributes:
        gates: by source, or other name of a block of features, the gates [features] of every seed, in the order of
            the run's seeds.
    """

    command: ClassVar[str] = "aft train {name}"

    gates: dict[str, tuple[tuple[float, ...], ...]]


class RunRecord(Record):
    """runs/<run>/run.json: what was trained, tried and chosen.

    Attributes:
        data: digest of the prepared dataset that it was trained on.
        features, probes: by source, the digests of the features and of the probes that it was trained with.
        splits: per seed, the digest of the split it was trained on.
        augmented: the augmentations of the labelled rows, in the order in which they are applied.
        transfer_rows: what the teachers see of a row: `clean`, or one of its `views`, which may be the clean row; None
            without methods. The student sees the same, or with `augment_transfer` in `settings` the same augmented.
        metric: the score that the choice was made by, on validation rows.
        chosen, chosen_settings: the weights and settings of the chosen candidate.
        files: the checksum of every other file in the folder, by name: students, curves, gates.
    """

    command: ClassVar[str] = "aft train {name}"
    named: ClassVar[str] = "run"

    run: str
    student: StudentRecord
    data: str
    sources: tuple[str, ...]
    features: dict[str, str]
    probes: dict[str, str]
    methods: tuple[MethodRecord, ...]
    shuffled_teacher: bool
    seeds: tuple[int, ...] = Field(min_length=1)
    splits: dict[str, str]
    labelled: int
    unlabelled: int
    steps: int
    settings: dict[str, Any]
    augmented: tuple[str, ...] = ()
    transfer_rows: Literal["clean", "views"] | None = None
    metric: Metric
    candidates: tuple[CandidateRecord, ...] = Field(min_length=1)
    chosen: tuple[float, ...]
    chosen_settings: dict[str, Any] = Field(default_factory=dict)
    trainings: int
    diagnostics: tuple[DiagnosticsRecord, ...]
    files: dict[str, str]

    @property
    def students_digest(self) -> str:
        """The digest of the files of all students: it differs between trainings, unless their weights are equal."""
        return digest_of({name: checksum for name, checksum in self.files.items() if name.startswith("students/")})

    @property
    def chosen_scores(self) -> tuple[float, ...]:
        """The validation scores of the chosen candidate, by seed."""
        chosen = (self.chosen, self.chosen_settings)
        return next(c.finite for c in self.candidates if (c.weights, c.settings) == chosen and not c.dropped)

    @property
    def best_seed(self) -> int:
        """The seed whose student did best on its validation rows; the first of those that tie."""
        sign = 1 if self.metric.higher_is_better else -1
        return max(zip(self.seeds, self.chosen_scores, strict=True), key=lambda pair: sign * pair[1])[0]

    @model_validator(mode="after")
    def _chosen_is_a_candidate(self) -> "RunRecord":
        tried = [(c.weights, c.settings) for c in self.candidates if c.finite and not c.dropped]
        if len(self.chosen) != len(self.methods) or (self.chosen, self.chosen_settings) not in tried:
            raise ValueError(
                "the chosen weights are not one per method, or not among the candidates, or diverged, or were dropped"
            )
        if any(len(c.val_scores) != len(self.seeds) for c in self.candidates if not c.dropped):
            raise ValueError("a candidate that was not dropped lacks the score of a seed")
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


class ClassRecord(Record):
    """One class of a task, on the test rows of one seed: its scores by name, None where not defined."""

    name: str
    scores: Scores


class DetailsRecord(Record):
    """What else there is to say of one seed's student on the test rows of its split.

    Attributes:
        scores: by name of the metric.
        classes: each with its scores; empty for tasks without classes.
        confusion: rows of each class (outer) that are predicted to be of each (inner); empty where a row may have
            several, and where there are very many classes.
    """

    seed: int
    scores: Scores
    classes: tuple[ClassRecord, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


class TeacherRecord(Record):
    """How close one seed's student is to one of its sources, on test rows.

    Attributes:
        scores: `cka`, debiased linear CKA of their features; `agreement` of the student's outputs with those of the
            source's linear probe, see `Task.agreement`.
    """

    source: str
    scores: Scores


class RepresentationRecord(Record):
    """What the features of one seed's student know: primary test scores of simple models that read them.

    Attributes:
        scores: `linear`, of a linear probe; `neighbours`, of the nearest neighbours.
        teachers: one for each of the run's sources.
    """

    seed: int
    scores: Scores
    teachers: tuple[TeacherRecord, ...] = ()


class EvaluationRecord(Record):
    """evaluations/<run>.json: test scores of a run's students, and of its teachers' probe on the same rows.

    Attributes:
        students: digest of the run's students that were tested.
        data: digest of the prepared dataset.
        probes: by source, the digest of the probes that were tested.
        metrics: of the scores; the first is the primary one, which the report compares.
        outputs: names of the student's outputs, such as the classes.
        results: one per seed.
        probe: the same scores of the linear probe of the run's teachers; None without teachers.
        more: what the scores of `details` are.
        details: one per seed.
        features: one per seed; empty where the student reads the features of its teachers, where there are no
            validation rows, and where the labelled rows are too few for a probe.
        files: the checksum of the file with the outputs that all of this was computed from, by name.
    """

    command: ClassVar[str] = "aft evaluate {name}"
    named: ClassVar[str] = "run"

    run: str
    student: str
    students: str
    sources: tuple[str, ...]
    data: str
    probes: dict[str, str]
    task: str
    metrics: tuple[Metric, ...] = Field(min_length=1)
    outputs: tuple[str, ...]
    test_rows: int
    results: tuple[SeedScores, ...] = Field(min_length=1)
    probe: tuple[SeedScores, ...] | None
    more: tuple[Metric, ...] = ()
    details: tuple[DetailsRecord, ...] = ()
    features: tuple[RepresentationRecord, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def primary(self) -> Metric:
        """The metric that runs are compared by."""
        return self.metrics[0]

    def __str__(self) -> str:
        def mean(of: Iterable[SeedScores]) -> str:
            return self.primary.written(mean_score((each.scores for each in of), self.primary.name))

        seeds = count(len(self.results), "seed")
        reference = f", the probe of its teachers {mean(self.probe)}" if self.probe else ""
        return f"{self.run}: test {self.primary.label} {mean(self.results)} over {seeds}{reference}"
