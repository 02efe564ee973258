"""A trained student on disk: a folder with its weights and everything that is needed to build it.

    student.json          family, settings, what the family's `fit` returned, outputs, the features that it reads if any
    weights.safetensors   the student's weights, without those of the methods that trained it

Nothing else is needed to use it, and nothing in it can run code. A student that reads features works with those of the
same stores only; others are refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.data import Dataset
from pipeline.datasets import parts_of
from pipeline.errors import UserError, count
from pipeline.files import write_atomically
from pipeline.params import parse
from pipeline.plugins import plugin
from pipeline.records import Record
from pipeline.store import Reader, SourceFeatures
from pipeline.students._contract import Inputs, Kind, Preprocessing, Scaled, Student
from pipeline.tasks import Task
from pipeline.views import Views

STUDENT, WEIGHTS = "student.json", "weights.safetensors"


class Blueprint(Record):
    """student.json: everything that makes a student, except its weights.

    Attributes:
        family: the file in pipeline/students/.
        settings: its section of params.yaml, without `family` and with all defaults.
        fitted: what `fit` of the family returned.
        classes: names of the outputs, in their order.
        shift, scale: the outputs are those of the last layer times `scale` plus `shift`, in the unit of the labels.
        teachers: for a family that reads features, the digests `recipe` and `content` of the features it learned from,
            by source, in the run's order.
    """

    command: ClassVar[str] = "aft train RUN"

    family: str
    settings: dict[str, Any]
    fitted: dict[str, Any]
    classes: tuple[str, ...]
    shift: float = 0.0
    scale: float = 1.0
    teachers: dict[str, dict[str, str]] = Field(default_factory=dict)

    @property
    def reads(self) -> Kind:
        """What the family reads: text, image or features."""
        return kind_of(plugin("students", self.family), self._settings())

    @property
    def runs_code(self) -> bool:
        """Whether building it runs a function that its settings name."""
        return bool(getattr(plugin("students", self.family), "RUNS_CODE", False))

    @property
    def solved(self) -> bool:
        """Whether the family solves for its weights, instead of being trained step by step."""
        return is_solved(self.family)

    def solve(self, student: Student, inputs: Inputs, rows: np.ndarray, labels: np.ndarray, task: Task) -> None:
        """Give a student of this blueprint its weights, from the labels of rows."""
        inner = student.student if isinstance(student, Scaled) else student
        plugin("students", self.family).solve(self._settings(), inner, inputs, rows, labels, task)

    def build(self, pretrained: bool = True) -> Student:
        """A student of this blueprint; see `pipeline.students`."""
        module = plugin("students", self.family)
        student: Student = module.build(self._settings(), self.fitted, len(self.classes), pretrained=pretrained)
        return student if (self.shift, self.scale) == (0.0, 1.0) else Scaled(student, self.shift, self.scale)

    def inputs(
        self, data: Dataset, sources: Mapping[str, SourceFeatures] | None = None, views: Views | None = None
    ) -> Inputs:
        """A dataset as this student reads it.

        Args:
            data: the dataset.
            sources: its features, by source; those that the student does not read are ignored.
            views: of its rows, for a student that reads rows.

        Raises:
            UserError: the dataset holds another kind of rows, the features are not those that the student learned
                from, or `fitted` lacks what the family needs.
        """
        module = plugin("students", self.family)
        known = sources or {}
        for name, learned in self.teachers.items():
            if name not in known:
                raise UserError(f"a {self.family} student of `{name}` reads its features; give those of `{name}`")
            if _identity(known[name]) != learned:
                raise UserError(
                    f"{known[name].store.path}: not the features that this {self.family} student learned from; "
                    "train it again"
                )
        source = _source(self.reads, f"a {self.family} student", data, {name: known[name] for name in self.teachers})
        try:
            more = {"views": views} if views else {}
            inputs: Inputs = module.inputs(self._settings(), self.fitted, source, **more)
        except KeyError as error:
            raise self._lacks(error) from error
        return inputs

    def preprocessing(self) -> Preprocessing:
        """What turns new rows into the input of this student.

        Raises:
            UserError: the student reads features of teachers, or `fitted` lacks what the family needs.
        """
        module = plugin("students", self.family)
        if self.reads == "features":
            raise UserError(
                f"a {self.family} student reads the features of its run's teachers and cannot be used without them: it "
                "is a baseline, not a model to take home; choose another run"
            )
        try:
            found: Preprocessing = module.preprocessing(self._settings(), self.fitted)
        except KeyError as error:
            raise self._lacks(error) from error
        return found

    def _lacks(self, error: KeyError) -> UserError:
        return UserError(
            f"a {self.family} student without {error}: its {STUDENT} is damaged, or of another version; run "
            f"`{Blueprint.command}` again"
        )

    def _settings(self) -> Any:
        return parse(plugin("students", self.family).Settings, self.settings, f"student {self.family}")


def kind_of(family: ModuleType, settings: Any) -> Kind:
    """What students of a family with these settings read."""
    kind: Kind = family.KIND or settings.kind
    return kind


def is_solved(family: str) -> bool:
    """Whether a family solves for its weights, instead of being trained step by step; see `pipeline.students`."""
    return hasattr(plugin("students", family), "solve")


def student_blueprint(
    section: dict[str, Any],
    where: str,
    data: Dataset,
    rows: np.ndarray,
    sources: Mapping[str, SourceFeatures] | None = None,
    task: Task | None = None,
) -> Blueprint:
    """The blueprint of a student that will learn from `rows` of `data`.

    Args:
        section: the student's section of params.yaml.
        where: the section's name, for messages.
        data: the dataset.
        rows: training rows.
        sources: features of the dataset, by source, for a family that reads features.
        task: the task as scaled by the labels of a split; the dataset's own if None.

    Raises:
        UserError: the section names no family or has a wrong key; the family reads another kind of rows, or features
            of this dataset and there are none.
    """
    values = {key: value for key, value in section.items() if key != "family"}
    module = plugin("students", section.get("family"), f"{where}.family")
    settings = parse(module.Settings, values, where)
    reads = kind_of(module, settings)
    source = _source(reads, f"{where}: a {section['family']} student", data, sources or {})
    teachers = {name: _identity(features) for name, features in (sources or {}).items() if reads == "features"}
    task = task or data.task
    return Blueprint(
        family=section["family"],
        # With all defaults, so that a checkpoint keeps its meaning when a default changes.
        settings=settings.model_dump(mode="json"),
        fitted=module.fit(settings, source, rows),
        classes=task.outputs,
        shift=task.shift,
        scale=task.scale,
        teachers=teachers,
    )


def save_student(folder: Path, blueprint: Blueprint, student: Student) -> None:
    """Write a student to a folder. Equal students give equal bytes.

    Raises:
        UserError: the folder cannot be written.
    """
    # Copies, because safetensors refuses tensors that share memory, as those of CoaT do.
    state = {name: tensor.detach().clone().contiguous() for name, tensor in student.state_dict().items()}
    # Without metadata, which safetensors writes in an order that changes from process to process.
    write_atomically(folder / WEIGHTS, save(state))
    blueprint.write(folder / STUDENT)


def load_student(folder: Path, classes: tuple[str, ...] | None = None) -> tuple[Blueprint, Student]:
    """Read a student that `save_student` wrote, ready to predict.

    Args:
        folder: where it is.
        classes: the names that the outputs must have; any if None.

    Raises:
        UserError: it is missing or damaged, or has other outputs.
    """
    blueprint = Blueprint.read(folder / STUDENT)
    if classes is not None and blueprint.classes != tuple(classes):
        raise UserError(
            f"{folder}: a student of {count(len(blueprint.classes), 'other output')}; train it again on this dataset"
        )
    try:
        weights = load_file(folder / WEIGHTS)
        student = blueprint.build(pretrained=False)
        student.load_state_dict(weights)
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS}: no such file; run `{Blueprint.command}`") from None
    except UserError as error:
        raise UserError(
            f"{folder}: damaged, or of another version ({error}); run `{Blueprint.command}` again"
        ) from None
    except Exception as error:  # a family may fail in any way on `fitted` of another version, or on other JSON
        line = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(
            f"{folder}: damaged, or of another version ({line}); run `{Blueprint.command}` again"
        ) from error
    return blueprint, student.eval()


def student_outputs(
    student: Student, inputs: Inputs, rows: np.ndarray, device: torch.device, batch_size: int = 512
) -> Iterator[tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]]:
    """Features and outputs of `rows`, batch by batch, from a student in evaluation mode."""
    # Each module's own: frozen layers of a student in training are not.
    modes = [(module, module.training) for module in student.modules()]
    student.eval()
    try:
        for start in range(0, len(rows), batch_size):
            batch = inputs.batch(rows[start : start + batch_size], device=device)
            with torch.inference_mode():
                outputs = student(batch)
            yield outputs
    finally:
        for module, training in modes:
            module.training = training


def predict(student: Student, inputs: Inputs, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """Outputs [n, C] of `rows`, float32."""
    return torch.cat([logits.float().cpu() for _, logits in student_outputs(student, inputs, rows, device)]).numpy()


def _source(reads: Kind, who: str, data: Dataset, sources: Mapping[str, SourceFeatures]) -> Dataset | dict[str, Reader]:
    """What a family reads: the dataset, or readers of its features."""
    if reads != "features":
        if reads not in (data.kind, "pair") or (reads == "pair" and len(parts_of(data.kind)) == 1):
            reads_rows = f"{reads}s" if reads == "pair" else reads
            raise UserError(f"{who} reads {reads_rows}; the dataset holds {data.kind}")
        return data
    if not sources:
        raise UserError(f"{who} reads the features of its run's teachers; add `teachers: [...]` to the run")
    for features in sources.values():
        features.store.check(dataset=data.digest, ids=data.ids)
    return {name: features.reader() for name, features in sources.items()}


def _identity(features: SourceFeatures) -> dict[str, str]:
    return {"recipe": features.store.recipe_digest, "content": features.digest}
