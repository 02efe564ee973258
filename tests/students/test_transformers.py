"""Students of transformers: weights under other names are refused, and never left at random."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.students import student_blueprint

from ..conftest import WORDS, write_encoder


@pytest.mark.parametrize("prefix", ["model.", "module.", "odd.", ""])
def test_weights_under_a_prefix_are_refused(project: Path, tmp_path: Path, prefix: str) -> None:
    folder = write_encoder(tmp_path / "encoder", WORDS, width=16, layers=1)
    state = load_file(folder / "model.safetensors")
    named = {f"{prefix}{name}": value for name, value in state.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    data = Dataset.open(project / "data")
    blueprint = student_blueprint({"family": "transformers", "model": str(folder)}, "students.x", data, np.arange(4))
    if not prefix:
        loaded = blueprint.build().model.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in state.items())
        return
    with pytest.raises(
        UserError, match=r"lack \d+ of the model's \d+ tensors, such as '.*'; save them under the names"
    ):
        blueprint.build()


def test_a_missing_tensor_is_named(project: Path, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", WORDS, width=16, layers=1)
    state = load_file(folder / "model.safetensors")
    del state["embeddings.position_embeddings.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    data = Dataset.open(project / "data")
    blueprint = student_blueprint({"family": "transformers", "model": str(folder)}, "students.x", data, np.arange(4))
    with pytest.raises(UserError, match=r"lack 1 of .*such as 'embeddings\.position_embeddings\.weight'"):
        blueprint.build()
