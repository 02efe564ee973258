"""Teachers of a user's own: the example of the docs through every stage, their recipe, and what is refused."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.teachers import python as family
from pipeline.teachers.python import OwnTeacher, Settings

CPU = torch.device("cpu")
PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text(encoding="utf-8")

WRONG = """
import numpy as np
import torch
from torch import nn

class Base:
    kind, heads = "text", {"pooled": (2,)}
    def __init__(self, device, precision):
        self.calls = 0
    def __call__(self, texts):
        self.calls += 1
        return {"pooled": np.array([[len(text), 1] for text in texts], np.float32)}

class OtherKind(Base):
    kind = "sound"

class OtherHeads(Base):
    heads = {"pooled": 2}

class NoPrepare(Base):
    kind = "image"

class Fails(Base):
    def __call__(self, texts):
        return {"pooled": torch.zeros(3) @ torch.zeros(4)}

class Missing(Base):
    def __call__(self, texts):
        return {"pooling": 1}

class OtherShape(Base):
    def __call__(self, texts):
        return {"pooled": np.ones((len(texts), 3))}

class Words(Base):
    def __call__(self, texts):
        return {"pooled": [["a", "b"] for text in texts]}

class Whole(Base):
    def __call__(self, texts):
        return {"pooled": np.ones((len(texts), 2), int)}

class OtherType(Base):
    def __call__(self, texts):
        self.calls += 1
        return {"pooled": np.ones((len(texts), 2), np.float32 if self.calls < 3 else np.float64)}

class Many(Base):
    heads = {"logits": (2000,)}
    def __call__(self, texts):
        return {"logits": np.ones((len(texts), 1)) * np.arange(2000)}

class Grid(Base):
    heads = {"logits": (20, 20)}

class Random(Base):
    def __call__(self, texts):
        return {"pooled": torch.randn(len(texts), 2)}

class Uneven(Base):
    kind = "image"
    def prepare(self, image):
        return np.asarray(image)

class Picky(Base):
    kind = "image"
    def prepare(self, image):
        if image.width < 5:
            raise KeyError("too small")
        return np.zeros(3, np.float32)
    def __call__(self, rows):
        return {"pooled": rows[:, :2]}

class Ranks(Base):
    def __call__(self, texts):
        lengths = np.array([len(text) for text in texts], np.float32)
        return {"pooled": np.stack([lengths - lengths.mean(), lengths], 1)}

def broken(device, precision):
    raise RuntimeError("no such\\nlayer")
"""


def example() -> str:
    """The module that the docs show."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return str(code)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with modules of a user in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_teachers.py").write_text(example())
    (tmp_path / "wrong.py").write_text(WRONG)
    yield tmp_path
    for module in ("my_teachers", "wrong"):
        sys.modules.pop(module, None)


def load(factory: str, **settings: Any) -> OwnTeacher:
    return family.load(parse(Settings, {"factory": factory, **settings}, "teachers.x"), "float32", CPU)


def test_it_gets_texts_and_gives_its_heads(here: Path) -> None:
    teacher = load("my_teachers:letters", options={"alphabet": "abc"})
    texts = ["", "A cab", "ünïcode \ud800 cc"]
    outputs = teacher.forward(teacher.collate([teacher.transform(text) for text in texts]))
    assert outputs["pooled"].tolist() == [[0, 0, 0], [2, 1, 1], [0, 0, 3]]
    assert (teacher.kind, dict(teacher.heads), teacher.notes) == ("text", {"pooled": (3,)}, ())


def test_features_that_depend_on_the_batch_are_computed_alone(here: Path) -> None:
    teacher = load("wrong:Ranks")
    assert teacher.recipe["together"] is False and "one row at a time" in teacher.notes[0]
    together = teacher.forward(teacher.collate(["a", "abc"]))["pooled"]
    assert together.tolist() == [[0, 1], [0, 3]]


def test_everything_that_changes_a_feature_changes_the_recipe(here: Path) -> None:
    (here / "weights.bin").write_bytes(b"1")
    options = {"alphabet": "weights.bin"}
    before = load("my_teachers:letters", options=options).recipe
    (here / "weights.bin").write_bytes(b"2")
    assert load("my_teachers:letters", options=options).recipe != before
    (here / "weights.bin").write_bytes(b"1")
    assert load("my_teachers:letters", options=options).recipe == before
    assert load("my_teachers:letters", options={"alphabet": "w"}).recipe != before
    weights = load("my_teachers:colours").recipe
    sys.modules.pop("my_teachers")
    (here / "my_teachers.py").write_text(example().replace("manual_seed(0)", "manual_seed(1)"))
    other = load("my_teachers:colours").recipe
    assert weights["weights"] != other["weights"] and weights["code"] != other["code"]


@pytest.mark.parametrize(
    ("factory", "answer"),
    [
        ("wrong:OtherKind", r"kind 'sound'; set `kind` to"),
        ("wrong:OtherHeads", r"heads \{'pooled': 2\}; set `heads`"),
        ("wrong:NoPrepare", r"no method `prepare\(image\)`"),
        ("wrong:Fails", r"wrong:Fails: RuntimeError: .*\(wrong\.py, line 25\)"),
        ("wrong:broken", r"RuntimeError: no such layer \(wrong\.py, line 80\)"),
        ("wrong:Missing", r"gives pooling for a batch; it must give a mapping with pooled"),
        ("wrong:OtherShape", r"float64 \(1, 3\) for 1 row; it must be of floats \(1, 2\)"),
        ("wrong:Words", r"it must be of floats \(1, 2\)"),
        ("wrong:Whole", r"int64 \(1, 2\) for 1 row; it must be of floats"),
        ("wrong:OtherType", r"is float32 for some rows, float64 for others"),
        ("wrong:Random", r"change from call to call"),
        ("wrong:Uneven", r"`prepare` gives uint8 \(48, 64, 3\) for one image, uint8 \(64, 48, 3\) for another"),
        ("wrong:nothing", r"wrong has no function 'nothing'"),
        ("absent:nothing", r"no module 'absent'"),
    ],
)
def test_what_is_wrong_is_one_line(here: Path, factory: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer) as caught:
        load(factory)
    assert "\n" not in str(caught.value)


def test_many_logits_are_pointed_out_and_the_largest_kept_where_asked(here: Path) -> None:
    teacher = load("wrong:Many", heads=["logits"])
    assert teacher.largest == {} and "2,000 logits are 4,000 bytes a row; `top: 50`" in teacher.notes[0]
    teacher = load("wrong:Many", heads=["logits"], top=50)
    assert teacher.largest == {"logits": 50} and teacher.notes == ()
    with pytest.raises(UserError, match=r"head `logits` has the shape .20, 20.; it must be one value a class"):
        load("wrong:Grid", heads=["logits"])


def test_a_head_that_it_lacks_and_a_module_that_does_not_parse(here: Path) -> None:
    with pytest.raises(UserError, match="it has no head `logits`; its heads are pooled"):
        load("my_teachers:colours", heads=["logits"])
    (here / "wrong.py").write_text("x = 1\nx = = 2\n")
    with pytest.raises(UserError, match=r"wrong:x: SyntaxError: invalid syntax \(wrong\.py, line 2\)"):
        load("wrong:x")


def test_an_image_that_prepare_refuses_is_a_row_that_cannot_be_read(here: Path) -> None:
    from PIL import Image

    with pytest.raises(ValueError, match=r"KeyError: 'too small' \(wrong\.py, line"):
        load("wrong:Picky").transform(Image.new("RGB", (4, 4)))


def test_the_example_goes_through_every_stage(
    project: Path, aft: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "my_teachers.py").write_text(example())
    monkeypatch.delitem(sys.modules, "my_teachers", raising=False)
    values = yaml.safe_load((project / "params.yaml").read_text())
    short = {"family": "python", "factory": "my_teachers:letters", "options": {"alphabet": "abdglnopr0123456789"}}
    values["teachers"] = {"letters": short}
    values["runs"] = {"aft": {"student": "bag", "teachers": ["letters"], "methods": {"aft": {"weight": 1.0}}}}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    for command in ("extract letters", "probe letters", "join", "train aft -S train.seeds=[0]"):
        done = aft(*command.split())
        assert done.returncode == 0, done.stderr
    again = aft("extract", "letters")
    assert "complete" in again.stdout + again.stderr


def test_a_short_form_has_the_recipe_of_the_long_one(here: Path) -> None:
    from pipeline.specs import expand

    section = expand("python:my_teachers:colours", "teachers", "image", "teachers.x")
    assert section.pop("family") == "python"
    assert load(**section).recipe == load("my_teachers:colours", heads=["pooled"]).recipe
