"""What others do with an export: no line of this project, only its files and the libraries of its format."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import Dataset
from pipeline.students import predict

from ..conftest import WORDS, write_encoder
from ..serving.made import CPU, made_export
from ..students.conftest import write_pictures

TEXTS = ["Good1 film, word7 word7!", "nothing known here", "bad3"]


@pytest.fixture(scope="module")
def texts(made_project: Path) -> Dataset:
    return Dataset.open(made_project / "data")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_bag_of_words_from_its_vocabulary(texts: Dataset, tmp_path: Path):
    folder = tmp_path / "out"
    made_export(folder, {"family": "bag_of_words", "width": 8, "pairs": True}, texts, "torch_export")
    from pipeline.predict import Predictor

    expected = Predictor(folder, device="cpu", trust=True)(TEXTS).outputs
    known = json.loads((folder / "vocabulary.json").read_text())
    numbers = {word: number for number, word in enumerate(known["words"], start=1)}

    def encode(text: str) -> list[int]:
        words = re.findall(known["pattern"], text.lower())
        words += [f"{a} {b}" for a, b in pairwise(words)] if known["pairs"] else []
        return [numbers[word] for word in words if word in numbers] or [0]

    model = torch.export.load(folder / "model.pt2").module()
    for text, outputs in zip(TEXTS, expected, strict=True):
        row = torch.tensor([encode(text)])
        assert np.allclose(model(row, torch.ones_like(row))[0].detach(), outputs, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_encoder_from_its_tokenizer(texts: Dataset, tmp_path: Path):
    from tokenizers import Tokenizer

    encoder = write_encoder(tmp_path / "encoder", WORDS, width=16, layers=1)
    blueprint, student = made_export(
        tmp_path / "out", {"family": "transformers", "model": str(encoder), "max_length": 6}, texts, "torch_export"
    )
    rows = np.arange(5)
    encoded = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode_batch(texts.content(rows))
    model = torch.export.load(tmp_path / "out" / "model.pt2").module()
    outputs = model(*(torch.tensor([getattr(each, name) for each in encoded]) for name in ("ids", "attention_mask")))
    assert np.allclose(outputs.detach(), predict(student, blueprint.inputs(texts), rows, CPU), atol=1e-5)


def test_timm_loads_a_student_with_its_preprocessing(tmp_path: Path):
    import timm
    from PIL import Image

    pictures = write_pictures(tmp_path / "pictures", 40)
    section = {"family": "timm", "model": "test_vit", "pretrained": False, "size": 32}
    blueprint, student = made_export(tmp_path / "out", section, pictures, "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert list(model.pretrained_cfg["label_names"]) == ["dark", "light"]
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with Image.open(tmp_path / "pictures" / "raw" / str(pictures.ids[3])) as image:
        found = model(prepare(image.convert("RGB"))[None]).detach()
    # timm rounds the longer side in another way, and that alone may differ.
    assert np.allclose(found, predict(student, blueprint.inputs(pictures), np.array([3]), CPU), atol=0.05)


def test_the_preprocessing_of_images_is_written_down(tmp_path: Path):
    from PIL import Image

    pictures = write_pictures(tmp_path / "pictures", 40)
    blueprint, student = made_export(
        tmp_path / "out", {"family": "compact_cnn", "width": 8, "size": 12}, pictures, "torch_export"
    )
    steps = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    path = tmp_path / "pictures" / "raw" / str(pictures.ids[3])
    with Image.open(path) as image:
        side = steps["resize"]["shorter_side"]
        scale = side / min(image.size)
        width, height = (max(side, round(length * scale)) for length in image.size)
        left, top = (width - side) // 2, (height - side) // 2
        small = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(small.crop((left, top, left + side, top + side))) / 255
    ready = ((pixels - steps["mean"]) / steps["std"]).transpose(2, 0, 1)[None].astype(np.float32)
    model = torch.export.load(tmp_path / "out" / "model.pt2").module()
    expected = predict(student, blueprint.inputs(pictures), np.array([3]), CPU)
    assert np.allclose(model(torch.from_numpy(ready)).detach(), expected, atol=1e-5)
