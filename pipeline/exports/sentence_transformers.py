"""A sentence-transformers folder with encoder, pooling and one dense layer: a text's embedding is the outputs.

`SentenceTransformer("FOLDER").encode(["a text"])` gives logits, or the value of a regression.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.exports import Model
from pipeline.exports._encoders import device_batch, head, refused, save_encoder
from pipeline.files import scratch_folder
from pipeline.pretrained.transformers import quiet
from pipeline.students import STUDENT, Blueprint, Student

PACKAGES = ("sentence_transformers",)
RUNS_CODE = True
USE = (
    "from sentence_transformers import SentenceTransformer",
    'model = SentenceTransformer("FOLDER")  # model.encode(["a text"]) gives the outputs',
)


def refusal(blueprint: Blueprint) -> str:
    """Why it cannot hold a student: it holds those of the family transformers."""
    return refused(blueprint)


def write(folder: Path, blueprint: Blueprint, student: Student, rows: Sequence[Any]) -> None:
    """student.json and the modules of sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer

    weight, bias = head(student)
    with scratch_folder(folder) as scratch, quiet():
        save_encoder(scratch, blueprint, student)
        encoder = Transformer(str(scratch), max_seq_length=blueprint.fitted["max_length"])
        mode = {"last": "lasttoken"}.get(blueprint.settings["pooling"], blueprint.settings["pooling"])
        pooling = Pooling(student.width, pooling_mode=mode)
        dense = Dense(student.width, len(blueprint.classes), activation_function=nn.Identity())
        dense.linear.load_state_dict({"weight": weight, "bias": bias})
        SentenceTransformer(modules=[encoder, pooling, dense], device="cpu").save(str(folder), create_model_card=False)
    blueprint.write(folder / STUDENT)


def load(folder: Path, blueprint: Blueprint, device: torch.device) -> Model:
    """The modules, loaded by sentence-transformers alone."""
    from sentence_transformers import SentenceTransformer

    with quiet():
        model = SentenceTransformer(str(folder), device=str(device), local_files_only=True)

    def outputs(batch: Any) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = model(device_batch(batch, device))["sentence_embedding"].float().cpu().numpy()
            return found

    return outputs
