"""A folder that `transformers.AutoModel` and `AutoTokenizer` load, and the last layer in head.safetensors.

transformers has no model with pooled tokens and one linear layer for every encoder, so two steps are left to the user:
`weight @ pooled + bias`, where `pooled` is computed as `pooling` in student.json says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from transformers import AutoModel

from pipeline.exports import Model
from pipeline.exports._encoders import head, refused, save_encoder
from pipeline.files import write_atomically
from pipeline.pretrained.transformers import quiet
from pipeline.students import STUDENT, Blueprint, Scaled, Student, place

PACKAGES: tuple[str, ...] = ()
RUNS_CODE = False
USE = (
    "from transformers import AutoModel, AutoTokenizer",
    'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
    'model = AutoModel.from_pretrained("FOLDER")',
    "# then pool the last hidden state as student.json says, and apply head.safetensors: weight @ pooled + bias",
)

HEAD = "head.safetensors"


def refusal(blueprint: Blueprint) -> str:
    """Why it cannot hold a student: it holds those of the family transformers."""
    return refused(blueprint)


def write(folder: Path, blueprint: Blueprint, student: Student, rows: Sequence[Any]) -> None:
    """student.json, the encoder, its tokenizer, and the last layer."""
    blueprint.write(folder / STUDENT)
    save_encoder(folder, blueprint, student)
    weight, bias = head(student)
    write_atomically(folder / HEAD, save({"weight": weight.contiguous(), "bias": bias.contiguous()}))


def load(folder: Path, blueprint: Blueprint, device: torch.device) -> Model:
    """The encoder, loaded by transformers, with the student's pooling and the last layer of the file."""
    student = blueprint.build(pretrained=False)
    inner: Any = student.student if isinstance(student, Scaled) else student
    with quiet():
        inner.body.model = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    inner.head.load_state_dict(load_file(folder / HEAD))
    inner.eval().to(device)

    def outputs(batch: Any) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = inner(place(batch, device))[1].float().cpu().numpy()
            return found

    return outputs
