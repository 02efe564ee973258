"""What the stages write for one another as JSON: one frozen class per file, which writes and reads itself.

Results hold no times, dates or machines, so that the same inputs give the same bytes. Those are in `LogRecord`.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError
from pipeline.files import write_atomically


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
    def read(cls, path: Path, name: str = "") -> Self:
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
    """A score of a task: its name in records, how it is shown, and which direction is better."""

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
    """How one seed's training behaved: whether the student collapsed, and how hard the methods pulled."""

    seed: int
    one_class: bool
    largest_class_share: float
    gradient_ratio_start: float | None = None
    gradient_ratio_end: float | None = None
    feature_spread_start: float | None = None
    feature_spread_end: float | None = None
    penalties: dict[str, PenaltyRecord] = Field(default_factory=dict)


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
    def _chosen_is_a_candidate(self) -> Self:
        tried = [(c.weights, c.settings) for c in self.candidates if c.complete]
        if len(self.chosen) != len(self.methods) or (self.chosen, self.chosen_settings) not in tried:
            raise ValueError("the chosen weights are not one per method, or not among the candidates, or diverged")
        return self


class SeedScores(Record):
    """The test scores of one seed's student on the test rows of its split, by name of the metric."""

    seed: int
    split: int
    scores: dict[str, float]


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
    val: dict[str, float]
    test: dict[str, float]
    kernel_val: dict[str, float]
    kernel_test: dict[str, float]


class ProbeRecord(Record):
    """probes/<teacher>/<head>/probe.json: how well the probes of one source do."""

    command: ClassVar[str] = "aft probe {name}"

    source: str
    metrics: tuple[Metric, ...] = Field(min_length=1)
    splits: tuple[ProbeSplitRecord, ...] = Field(min_length=1)


class BundleRecord(Record):
    """bundles/<run>.json: digests of everything that the result of one run depends on."""

    command: ClassVar[str] = "aft join"

    run: str
    dataset: str
    sources: dict[str, dict[str, str]]
    code: str
