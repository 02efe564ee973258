"""Folders of models from elsewhere: what libraries would wait for, or read without end, is refused before they do."""

import os
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.pretrained.transformers import fetch, read_json
from tests.memory import at_most


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json"])
def test_pipes_devices_and_huge_texts_in_a_model_are_refused(tmp_path: Path, name: str):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match=rf"{name}: is a pipe, and a file is needed there"):
        fetch(str(tmp_path))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=rf"{name}: is a device, and a file is needed there"):
        fetch(str(tmp_path))
    path.unlink()
    path.touch()
    os.truncate(path, 3 << 30)
    if name == "model.safetensors":
        assert fetch(str(tmp_path)) == tmp_path
    else:
        with pytest.raises(UserError, match=rf"{name}: has 3,221,225,472 bytes, and no such file has more than"):
            fetch(str(tmp_path))


def test_what_is_no_file_of_the_model_is_not_looked_at(tmp_path: Path):
    os.mkfifo(tmp_path / "socket")
    (tmp_path / "old.json").mkdir()
    (tmp_path / "gone.json").symlink_to("nowhere")
    assert fetch(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "content",
    ['{"a": "\\ud800"}', "[" * 100_000, "{", "\xff", "9" * 5000],
    ids=["half", "deep", "cut", "bytes", "number"],
)
def test_a_configuration_that_is_no_sound_json_is_one_line(tmp_path: Path, content: str):
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("latin-1"))
    with at_most(1 << 30), pytest.raises(UserError, match=r"config\.json: cannot be read: ") as error:
        read_json(path)
    assert "\n" not in str(error.value)
