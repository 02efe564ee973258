"""A trained student on disk: a folder with its weights, its family and settings, and what it learned of its rows.

    student.json          family, settings, what the family's `fit` returned, the classes, the features it reads if any
    weights.safetensors   the student's weights, nothing of the method that trained it

Nothing else is needed to use it, and nothing in it can run code. A student that reads features is used on those of the
same stores; any others are refused.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.params import parse, plugin
from pipeline.store import Reader, SourceFeatures
from pipeline.students._contract import Inputs, Kind, Student


@dataclass(frozen=True)
class Recipe:
    """All that a student is, but its weights.

    Attributes:
        family: the file in pipeline/students/.
        settings: its section of params.yaml, without `family`.
        fitted: what `fit` of the family returned.
        classes: their names, in the order of the logits.
        teachers: for a family that reads features, the digests of those it learned from: by source, in the run's
            order, `recipe` and `content`.
    """

    family: str
    settings: dict[str, Any]
    fitted: dict[str, Any]
    classes: tuple[str, ...]
    teachers: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def reads(self) -> Kind:
        """What the family reads: text, image or features."""
        kind: Kind = plugin("students", self.family).KIND
        return kind

    def build(self, pretrained: bool = True) -> Student:
        """A student of this recipe; see `pipeline.students`."""
        module = plugin("students", self.family)
        student: Student = module.build(self._settings(), self.fitted, len(self.classes), pretrained=pretrained)
        return student

    def inputs(self, data: Dataset, sources: Mapping[str, SourceFeatures] | None = None) -> Inputs:
        """A dataset as this student reads it.

        Args:
            data: the dataset.
            sources: features of it, by source; those that the student does not read are ignored.

        Raises:
            UserError: the dataset holds another kind of rows, or the features are not those that the student learned
                from.
        """
        module = plugin("students", self.family)
        known = sources or {}
        for name, learned in self.teachers.items():
            if name not in known:
                raise UserError(f"a {self.family} student of `{name}` reads its features; give those of `{name}`")
            if _identity(known[name]) != learned:
                raise UserError(
                    f"{known[name].store.path}: other features than this {self.family} student learned from; "
                    "train it again"
                )
        source = _source(module, f"a {self.family} student", data, {name: known[name] for name in self.teachers})
        inputs: Inputs = module.inputs(self._settings(), self.fitted, source)
        return inputs

    def _settings(self) -> Any:
        return parse(plugin("students", self.family).Settings, self.settings, f"student {self.family}")


def student_recipe(
    section: dict[str, Any],
    where: str,
    data: Dataset,
    rows: np.ndarray,
    sources: Mapping[str, SourceFeatures] | None = None,
) -> Recipe:
    """The recipe of a student that will learn from `rows` of `data`.

    Args:
        section: of params.yaml.
        where: its name, for messages.
        data: the dataset.
        rows: training rows.
        sources: features of the dataset, by source, for a family that reads those.

    Raises:
        UserError: the section names no family or has a wrong key, or the family reads another kind of rows, or
            features and there are none of this dataset.
    """
    values = {key: value for key, value in section.items() if key != "family"}
    module = plugin("students", section.get("family"), f"{where}.family")
    settings = parse(module.Settings, values, where)
    source = _source(module, f"{where}: a {section['family']} student", data, sources or {})
    teachers = {name: _identity(features) for name, features in (sources or {}).items() if module.KIND == "features"}
    return Recipe(section["family"], values, module.fit(settings, source, rows), data.task.outputs, teachers)


def save_student(folder: Path, recipe: Recipe, student: Student) -> None:
    """Write a student."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in student.state_dict().items()}, folder / "weights.safetensors"
    )
    (folder / "student.json").write_text(json.dumps(vars(recipe), ensure_ascii=False) + "\n", encoding="utf-8")


def load_student(folder: Path, classes: tuple[str, ...] | None = None) -> tuple[Recipe, Student]:
    """Read a student that `save` wrote, ready to predict.

    Args:
        folder: where it is.
        classes: what the classes must be, if it matters.

    Raises:
        UserError: it is not there, is damaged, or is a student of other classes.
    """
    try:
        values = json.loads((folder / "student.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or folder}: no such file; train the student first: `aft train RUN`") from None
    except Exception as error:
        raise UserError(f"{folder}: damaged checkpoint ({' '.join(str(error).split())}); train it again") from None
    found = Recipe(
        values["family"], values["settings"], values["fitted"], tuple(values["classes"]), values.get("teachers", {})
    )
    if classes is not None and found.classes != tuple(classes):
        raise UserError(f"{folder}: a student of {len(found.classes)} other classes; train it again on this dataset")
    student = found.build(pretrained=False)
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{folder}: weights of another student: {' '.join(str(error).split())[:160]}") from None
    return found, student.eval()


def place(inputs: Any, device: torch.device) -> Any:
    """A batch that `Inputs.batch` made, on a device. A copy to a GPU is not waited for, which takes pinned memory."""
    if isinstance(inputs, Tensor):
        inputs = inputs.pin_memory() if device.type == "cuda" else inputs
        return inputs.to(device, non_blocking=True)
    return tuple(place(part, device) for part in inputs)


def student_outputs(
    student: Student, inputs: Inputs, rows: np.ndarray, device: torch.device, batch_size: int = 512
) -> Iterator[tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]]:
    """Features and logits of `rows`, batch by batch, from a student in evaluation mode."""
    training = student.training
    student.eval()
    try:
        for start in range(0, len(rows), batch_size):
            batch = place(inputs.batch(rows[start : start + batch_size]), device)
            with torch.inference_mode():
                outputs = student(batch)
            yield outputs
    finally:
        student.train(training)


def predict(student: Student, inputs: Inputs, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """Logits [n, C] of `rows`, float32."""
    return torch.cat([logits.float().cpu() for _, logits in student_outputs(student, inputs, rows, device)]).numpy()


def _source(
    module: ModuleType, who: str, data: Dataset, sources: Mapping[str, SourceFeatures]
) -> Dataset | dict[str, Reader]:
    """What a family reads: the dataset, or readers of features of it."""
    if module.KIND != "features":
        if data.kind != module.KIND:
            raise UserError(f"{who} reads {module.KIND}; the dataset holds {data.kind}")
        return data
    if not sources:
        raise UserError(f"{who} reads the features of its run's teachers; add `teachers: [...]` to the run")
    for features in sources.values():
        features.store.check(dataset=data.digest, ids=data.ids)
    return {name: features.reader() for name, features in sources.items()}


def _identity(features: SourceFeatures) -> dict[str, str]:
    return {"recipe": features.store.recipe_digest, "content": features.digest}
