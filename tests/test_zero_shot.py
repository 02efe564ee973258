"""Zero-shot outputs of a dual encoder on a folder of images, through every stage as a user types it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from PIL import Image

from pipeline.project import Project
from pipeline.records import ProbeRecord
from pipeline.store import FeatureStore

from .commands import aft
from .teachers.test_dual_encoder import clip, save

ROOT = Path(__file__).parents[1]
COLOURS = {"hot_dog": (220, 60, 40), "fox": (60, 60, 220), "cat": (90, 200, 90)}


def write_folder(raw: Path) -> None:
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (raw / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(np.array(colour) + random.normal(0, 25, (24, 24, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(raw / name / f"{number}.png")


def tuned(folder: Path, raw: Path) -> None:
    """A tiny CLIP that knows these colours: its image projection is a least-squares map onto the names' embeddings."""
    model = save(folder, *clip())
    tokens = hf.AutoTokenizer.from_pretrained(folder)
    names = [f"a photo of a {name.replace('_', ' ')}, a type of bird" for name in COLOURS]
    texts = tokens(names, padding=True, return_tensors="pt")
    texts.pop("token_type_ids", None)
    pictures = [Image.open(raw / name / f"{number}.png") for name in COLOURS for number in range(6)]
    pixels = hf.AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        goal = torch.nn.functional.normalize(model.get_text_features(**texts).pooler_output, dim=1)
        goal = torch.linalg.pinv(goal).T.repeat_interleave(6, 0)  # with the other names, each has the product 0
        pooled = model.vision_model(**pixels).pooler_output
        model.visual_projection.weight.copy_(torch.linalg.lstsq(pooled, goal).solution.T)
        model.logit_scale.fill_(3.0)
    model.save_pretrained(folder)


def values(folder: Path) -> dict[str, Any]:
    """Step by step as the page says, with a tiny model, and little training."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "params" / "images.yaml").read_text())
    page = (ROOT / "docs" / "teachers.md").read_text().partition("### Zero-shot, step by step")[2]
    found |= yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])  # type: ignore[index]
    found["teachers"]["clip"]["model"] = str(folder / "clip")
    found["students"]["cnn"] |= {"size": 16, "width": 8}
    found["dataset"]["labelled"] = 6
    found["extract"] = {}
    found["train"] |= {"steps": 10, "batch_size": 6, "transfer_batch_size": 12, "seeds": [0]}
    return found


def typed(folder: Path, *commands: str) -> str:
    out = ""
    for command in commands:
        done = aft(command, folder)
        assert done.code == 0, (command, done.errors)
        out += done.out
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("zero_shot")
    write_folder(folder / "raw" / "images")
    tuned(folder / "clip", folder / "raw" / "images")
    (folder / "params.yaml").write_text(yaml.safe_dump(values(folder)))
    typed(folder, "check", "prepare", "extract clip", "probe clip", "assess", "join")
    typed(folder, "train none", "train names", "evaluate none", "evaluate names", "report")
    return folder


def test_zero_shot_scores_are_in_probe_assessment_and_report(finished: Path) -> None:
    record = ProbeRecord.read(finished / "probes" / "clip" / "zero_shot" / "probe.json", "clip")
    store = FeatureStore.open(finished / "features" / "clip.zarr")
    logits = store.reader("zero_shot")(np.arange(60)).astype(np.float32)
    named = [name.partition("/")[0] for name in store.ids]
    right = np.array([sorted(COLOURS)[row] for row in logits.argmax(1)]) == np.array(named)
    assert right.mean() > 0.8, "the model knows its classes"
    scores = [split.own_test["accuracy"] for split in record.splits]
    assert min(score for score in scores if score is not None) > 0.7
    assert not ProbeRecord.read(finished / "probes" / "clip" / "pooled" / "probe.json", "clip").splits[0].own_test
    assert "clip/zero_shot without a probe or labels: test accuracy" in typed(finished, "probe clip")
    assessment = json.loads((finished / "assessments" / "teachers.json").read_text())
    assert "Zero-shot, without any label, the validation accuracy of clip/zero_shot is" in assessment["reasons"][-1]
    report = (Project(finished).report / "index.html").read_text()
    assert "clip/zero_shot, without a probe" in report and "no label was used" in report


def test_other_classes_extract_this_head_again_and_no_other(finished: Path, tmp_path: Path) -> None:
    other = values(finished)
    other["teachers"]["clip"]["zero_shot"] = {"template": "a sketch of {}"}
    (finished / "other.yaml").write_text(yaml.safe_dump(other))
    before = FeatureStore.open(finished / "features" / "clip.zarr")
    digests = {head: before.head_digest(head) for head in before.heads}
    done = aft("extract clip --params other.yaml", finished)
    assert done.code == 0 and "head `zero_shot` changed (recipe.templates" in done.errors, done.errors
    after = FeatureStore.open(finished / "features" / "clip.zarr")
    changed = [head for head, digest in digests.items() if after.head_digest(head) != digest]
    assert changed == ["zero_shot"]
    again = aft("extract clip", finished)
    assert again.code == 0
    restored = FeatureStore.open(finished / "features" / "clip.zarr")
    assert {head: restored.head_digest(head) for head in digests} == digests
