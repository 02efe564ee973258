"""A trained student on disk: a folder with its weights, its family and settings, and what it learned of its rows.

    student.json          family, settings, what the family's `fit` returned, the classes
    weights.safetensors   the student's weights, nothing of the method that trained it

Nothing else is needed to use it, and nothing in it can run code.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import UserError
from pipeline.params import parse, part
from pipeline.prepared import Prepared
from pipeline.students import Inputs, Student


@dataclass(frozen=True)
class Recipe:
    """All that a student is, but its weights.

    Attributes:
        family: the file in pipeline/students/.
        settings: its section of params.yaml, without `family`.
        fitted: what `fit` of the family returned.
        classes: their names, in the order of the logits.
    """

    family: str
    settings: dict[str, Any]
    fitted: dict[str, Any]
    classes: tuple[str, ...]

    def build(self, pretrained: bool = True) -> Student:
        """A student of this recipe; see `pipeline.students`."""
        module = part("students", self.family)
        student: Student = module.build(self._settings(), self.fitted, len(self.classes), pretrained=pretrained)
        return student

    def inputs(self, data: Prepared) -> Inputs:
        """A dataset as this student reads it. Raises `UserError` if it holds another kind of rows."""
        module = part("students", self.family)
        if data.kind != module.KIND:
            raise UserError(f"a {self.family} student reads {module.KIND}, and the dataset holds {data.kind}")
        inputs: Inputs = module.inputs(self._settings(), self.fitted, data)
        return inputs

    def _settings(self) -> Any:
        return parse(part("students", self.family).Settings, self.settings, f"student {self.family}")


def recipe(section: dict[str, Any], where: str, data: Prepared, rows: np.ndarray) -> Recipe:
    """The recipe of a student that will learn from `rows` of `data`.

    Raises:
        UserError: the section names no family or has a wrong key, or the family reads another kind of rows.
    """
    values = {key: value for key, value in section.items() if key != "family"}
    module = part("students", section.get("family"), f"{where}.family")
    settings = parse(module.Settings, values, where)
    if data.kind != module.KIND:
        raise UserError(f"{where}: a {section['family']} student reads {module.KIND}; the dataset holds {data.kind}")
    return Recipe(section["family"], values, module.fit(settings, data, rows), data.classes)


def save(folder: Path, recipe: Recipe, student: Student) -> None:
    """Write a student."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in student.state_dict().items()}, folder / "weights.safetensors"
    )
    (folder / "student.json").write_text(json.dumps(vars(recipe), ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: Path, classes: tuple[str, ...] | None = None) -> tuple[Recipe, Student]:
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
    found = Recipe(values["family"], values["settings"], values["fitted"], tuple(values["classes"]))
    if classes is not None and found.classes != tuple(classes):
        raise UserError(f"{folder}: a student of {len(found.classes)} other classes; train it again on this dataset")
    student = found.build(pretrained=False)
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{folder}: weights of another student: {' '.join(str(error).split())[:160]}") from None
    return found, student.eval()


def place(inputs: Any, device: torch.device) -> Any:
    """A batch that `Inputs.batch` made, on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    return tuple(place(part, device) for part in inputs)


def outputs(
    student: Student, inputs: Inputs, rows: np.ndarray, device: torch.device, batch_size: int = 512
) -> Iterator[tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]]:
    """Features and logits of `rows`, batch by batch, from a student in evaluation mode."""
    training = student.training
    student.eval()
    try:
        for start in range(0, len(rows), batch_size):
            batch = place(inputs.batch(rows[start : start + batch_size]), device)
            with torch.inference_mode():
                said = student(batch)
            yield said
    finally:
        student.train(training)


def predict(student: Student, inputs: Inputs, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """Logits [n, C] of `rows`, float32."""
    return torch.cat([logits.float().cpu() for _, logits in outputs(student, inputs, rows, device)]).numpy()
