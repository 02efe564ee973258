"""Records of `aft probe`: the probes of each source."""

from typing import ClassVar

from pydantic import Field

from pipeline.provenance import digest_of
from pipeline.records.record import Metric, Record, Scores


class ProbeSplitRecord(Record):
    """The probes of one source on one split: the settings that validation rows chose, and the scores.

    Attributes:
        strength: of the linear probe: the inverse of its L2 penalty.
        kernel_sharpness, kernel_strength: of the kernel probe.
        val, test: scores of the linear probe by name of the metric; `test` is empty without test rows.
        kernel_val, kernel_test: the same for the kernel probe.
        own_val, own_test: the same for the source's values themselves, where they are outputs for the classes, as those
            of a head `zero_shot`; else empty.
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
    own_val: Scores = Field(default_factory=dict)
    own_test: Scores = Field(default_factory=dict)


class ProbeRecord(Record):
    """probes/<teacher>/<head>/probe.json: how well the probes of one source do.

    Attributes:
        data: digest of the prepared dataset.
        features: digest of the source's features.
        files: the checksum of every other file in the folder, by name: the fitted probes and their outputs.
    """

    command: ClassVar[str] = "aft probe {name}"

    source: str
    data: str
    features: str
    metrics: tuple[Metric, ...] = Field(min_length=1)
    splits: tuple[ProbeSplitRecord, ...] = Field(min_length=1)
    files: dict[str, str]

    @property
    def primary(self) -> Metric:
        """The metric that probes are compared by."""
        return self.metrics[0]

    @property
    def digest(self) -> str:
        """The digest of the record, and so of the probes that it names. Records of later stages contain it."""
        return digest_of(self.model_dump(mode="json"))


class ProbeViewsRecord(Record):
    """probes/<teacher>/<head>/<family>/views.json: the views that a source's probes have outputs for.

    Attributes:
        views: digests of the features of views 1, 2 and so on.
        files: the checksum of every other file in the folder, by name: these outputs.
    """

    command: ClassVar[str] = "aft probe {name}"

    views: tuple[str, ...]
    files: dict[str, str]
