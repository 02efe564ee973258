"""The base class of records, and parts that records of several stages share."""

import json
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.errors import UserError, system_error
from pipeline.files import TEXT_BYTES, read_regular, write_atomically
from pipeline.provenance import digest_of
from pipeline.verified import verifying

R = TypeVar("R", bound="Record")

CHECKSUM = "checksum"
"""The key in a file for the digest of everything else in it."""


def to_json(fields: Mapping[str, Any]) -> str:
    """Fields as the text of a file, with their checksum. Equal fields give equal bytes."""
    sealed = {**fields, CHECKSUM: digest_of(fields)}
    return json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(content: bytes) -> dict[str, Any]:
    """The fields in a file that `to_json` made.

    Raises:
        ValueError: the content is something else, or was changed.
    """
    try:
        fields = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError(f"expected fields by name, found {type(fields).__name__}")
    checksum = fields.pop(CHECKSUM, None)
    if verifying() and checksum != digest_of(fields):
        raise ValueError("its checksum differs" if checksum else "it has no checksum")
    return fields


class Record(BaseModel):
    """A frozen record on disk, checked when it is built and when it is read. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    command: ClassVar[str] = "aft run"
    """The command that writes the file, for messages; `{name}` stands for the name of the file."""

    named: ClassVar[str] = ""
    """The field, if any, that must equal the name that the record is read under: a file may come from elsewhere."""

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all. Equal records give equal bytes.

        Raises:
            UserError: the file cannot be written.
        """
        write_atomically(path, to_json(self.model_dump(mode="json")))

    @classmethod
    def read(cls: type[R], path: Path, name: str = "") -> R:
        """Read a record that `write` wrote.

        Args:
            path: the file.
            name: fills in the command of the message, such as the name of the run.

        Raises:
            UserError: it is missing, damaged, of another version, or has another name; the line says which command to
                run.
        """
        command = cls.command.format(name=name or path.stem)
        try:
            record = cls.model_validate(from_json(read_regular(path, TEXT_BYTES)))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run `{command}`") from None
        except OSError as error:
            raise system_error(error, path) from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            problem = f"{place}: {first['msg']}" if place else first["msg"]
            raise UserError(f"{path}: damaged, or of another version ({problem}); run `{command}` again") from None
        except ValueError as error:
            problem = " ".join(str(error).split())
            raise UserError(f"{path}: damaged, or changed by hand ({problem}); run `{command}` again") from None
        if cls.named and name and (found := getattr(record, cls.named)) != name:
            raise UserError(f"{path}: belongs to `{found}`; run `{command}` again")
        return record


def _without_nonfinite(scores: Any) -> Any:
    """JSON has neither NaN nor inf: a score that is not finite becomes None."""
    if not isinstance(scores, dict):
        return scores
    return {name: None if isinstance(x, float) and not isfinite(x) else x for name, x in scores.items()}


Scores = Annotated[dict[str, float | None], BeforeValidator(_without_nonfinite)]
"""Scores by name of the metric. None where the value is NaN or infinite, as the loss of a diverged student."""


def mean_score(scores: Iterable[Scores], metric: str) -> float | None:
    """The mean of one metric, such as over seeds or splits; None where one of them is unknown."""
    values = [of.get(metric) for of in scores]
    known = [value for value in values if value is not None]
    return fmean(known) if values and len(known) == len(values) else None


class LogRecord(Record):
    """logs/<name>.<stage>.json: how long a stage took, and where it ran.

    Attributes:
        seconds: wall time of the work that the result needed, over all calls that did a part of it.
        rows: rows that were processed in that time; None if the stage does not count rows.
        trainings: trainings done by this call; the others were already finished.
        device: such as `cpu` or `NVIDIA H100`.
        provenance: the commit, whether files differed from it, and the versions of libraries.
        settings: what the result depends on in params.yaml, as written; None if the stage does not say it.
        defaults: of those of its keys that need not be written.
    """

    seconds: float
    rows: int | None = None
    trainings: int | None = None
    device: str = ""
    provenance: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)


class Metric(Record):
    """A metric of a task: its name in records, how it is shown, and which direction is better.

    Attributes:
        name: the key in records, such as `accuracy`.
        label: the name in tables and sentences, such as `accuracy` or `RMSE`.
        unit: such as `kWh`; with `%` the score is a share from 0 to 1 and is shown as percent.
        higher_is_better: False for errors and losses.
    """

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool = True

    def written(self, score: float | None) -> str:
        """A score in a line of a command: `0.6538`, a share even where tables have percent; `1.2345 kWh`; `unknown`."""
        return "unknown" if score is None else f"{score:.4f} {'' if self.unit == '%' else self.unit}".rstrip()
