"""What every family of views promises: a pure function of (seed, row id, view number), replayed alike by both sides."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.plugins import plugin, plugins
from pipeline.views import Change, Views, changed, changed_batch, generator, teacher_views

from ..students.conftest import write_pictures

TEXTS = [name for name in plugins("views") if plugin("views", name).KIND == "text"]
IMAGES = [name for name in plugins("views") if plugin("views", name).KIND == "image"]
ROWS = np.arange(0, 40, 3)


def read(family: str, **keys: Any) -> Views:
    most = plugin("views", family).MOST
    return Views.read({"family": family, "count": most or 4} | keys, "teachers.t.views")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def texts(made_project: Path) -> Dataset:
    return Dataset.open(made_project / "data")


def data_of(family: str, pictures: Dataset, texts: Dataset) -> Dataset:
    return texts if family in TEXTS else pictures


def seen(views: Views, data: Dataset, rows: np.ndarray = ROWS) -> list[Any]:
    numbers = range(views.count + 1)
    if views.kind == "text":
        return [views.text(data, int(row), number) for number in numbers for row in rows]
    return [views.image(data, int(row), number).tobytes() for number in numbers for row in rows]


@pytest.mark.parametrize("family", plugins("views"))
def test_a_view_follows_from_seed_row_and_number_alone(family: str, pictures: Dataset, texts: Dataset):
    data, views = data_of(family, pictures, texts), read(family)
    forwards = seen(views, data)
    np.random.seed(3)  # a global generator has no say
    backwards = seen(views, data, ROWS[::-1])
    n = len(ROWS)
    assert [backwards[k * n : k * n + n][::-1] for k in range(views.count + 1)] == [
        forwards[k * n : k * n + n] for k in range(views.count + 1)
    ]
    # Views that were there before stay as they are when there are more of them.
    assert forwards[: 2 * n] == seen(read(family, count=1), data)


@pytest.mark.parametrize("family", plugins("views"))
def test_every_setting_is_in_its_record(family: str, pictures: Dataset, texts: Dataset):
    record = read(family, seed=3).record(1, data_of(family, pictures, texts))
    assert record["settings"].keys() == plugin("views", family).Settings.model_fields.keys()
    assert (record["family"], record["seed"], record["number"]) == (family, 3, 1)


@pytest.mark.parametrize("family", plugins("views"))
def test_views_differ_from_the_clean_rows_and_from_one_another(family: str, pictures: Dataset, texts: Dataset):
    data, views = data_of(family, pictures, texts), read(family)
    found, n = seen(views, data), len(ROWS)
    assert found[:n] == (
        [str(text) for text in data.content(ROWS)]
        if family in TEXTS
        else [changed(data.image(int(row)), Change()).tobytes() for row in ROWS]
    )
    for number in range(1, views.count + 1):
        same = sum(a == b for a, b in zip(found[:n], found[number * n : number * n + n], strict=True))
        assert same < n / 2
    if plugin("views", family).MOST is None:
        assert found[n : 2 * n] != found[2 * n : 3 * n]
        other = seen(read(family, seed=1), data)
        assert other[:n] == found[:n]
        assert other[n : 2 * n] != found[n : 2 * n]


@pytest.mark.parametrize("family", plugins("views"))
def test_the_record_names_all_that_a_view_depends_on(family: str, pictures: Dataset, texts: Dataset):
    data = data_of(family, pictures, texts)
    record = read(family).record(1, data)
    assert record == read(family, count=1).record(1, data)
    assert record != read(family, seed=1).record(1, data)
    assert record["version"] == plugin("views", family).VERSION
    assert ("rows" in record) == (family == "pairs")


def test_another_process_draws_the_same_numbers():
    code = "from pipeline.views import generator; print(generator(1, 'r0001', 3).random(4).tolist())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str(generator(1, "r0001", 3).random(4).tolist())


def test_rows_and_numbers_do_not_run_together():
    # A seed, number and id of other lengths that read the same in a row would share their numbers.
    drawn = [generator(*key).random() for key in [(1, "1", 1), (11, "", 1), (1, "", 11), (1, "1:1", 1), (1, "1", 11)]]
    assert len(set(drawn)) == 5


@pytest.mark.parametrize("family", IMAGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_pixels_is_changed_as_one_image_is(family: str, channels: int):
    random = np.random.default_rng(0)
    # Smooth pictures, as photographs are: bytes differ by rounding alone.
    small = random.integers(0, 256, (12, 5, 5, 3)).astype(np.uint8)
    large = [Image.fromarray(pixels).resize((33, 33), Image.Resampling.BICUBIC) for pixels in small]
    if channels == 1:
        large = [image.convert("L").convert("RGB") for image in large]
    views = read(family)
    module = plugin("views", family)
    changes = module.draw(views.settings, random.random((len(large), module.NUMBERS)))
    alone = np.stack(
        [np.asarray(changed(image, Change(*line))) for image, line in zip(large, changes.tolist(), strict=True)]
    )
    pixels = np.stack([np.asarray(image) for image in large]).transpose(0, 3, 1, 2)[:, :channels]
    batch = changed_batch(torch.from_numpy(pixels / np.float32(255)), changes).numpy() * 255
    gap = np.abs(batch - alone.transpose(0, 3, 1, 2)[:, :channels])
    assert gap.max() <= 2
    assert gap.mean() < 0.5
    assert np.abs(pixels - batch).mean() > 5


def test_a_crop_shows_the_box_it_names():
    pixels = np.zeros((60, 40, 3), np.uint8)
    pixels[10:30, :20], pixels[10:30, 20:] = (255, 0, 0), (0, 255, 0)
    image = Image.fromarray(pixels)  # its centre square is rows 10 to 49
    left = np.asarray(changed(image, Change(0, 0, 0.5, 0.5)))
    assert left.shape == (40, 40, 3)
    assert (left[:38, :38] == (255, 0, 0)).all()
    assert (np.asarray(changed(image, Change(0, 0, 0.5, 0.5, mirror=1)))[:38, 2:] == (255, 0, 0)).all()
    assert (np.asarray(changed(image, Change(0.5, 0, 0.5, 0.5)))[:38, 2:] == (0, 255, 0)).all()
    assert (np.asarray(changed(image, Change(0, 0.5, 1, 0.5)))[2:] == 0).all()


def test_crops_stay_inside_and_cover_what_they_may():
    family = plugin("views", "crops")
    drawn = family.draw(family.Settings(smallest=0.3), np.random.default_rng(0).random((500, 8)))
    left, top, width, height = drawn[:, :4].T
    assert (drawn[:, :4] >= 0).all()
    assert (left + width <= 1 + 1e-12).all() and (top + height <= 1 + 1e-12).all()
    area = width * height
    assert 0.25 < area.min() < 0.4 and area.max() > 0.9
    assert 0.4 < drawn[:, 4].mean() < 0.6
    still = family.Settings(mirror=False, colour=0.0, smallest=1.0, ratio=1.0)
    assert family.draw(still, np.random.default_rng(0).random((1, 8))).tolist() == [list(Change())]


def test_word_dropout_keeps_order_and_a_word_at_least():
    family = plugin("views", "word_dropout")
    words = [f"w{n}" for n in range(200)]
    kept = family.rewrite(family.Settings(share=0.3), generator(0, "r", 1), " ".join(words)).split()
    assert kept == [word for word in words if word in set(kept)]
    assert 110 < len(kept) < 170
    for row in range(50):
        assert family.rewrite(family.Settings(share=0.99), generator(0, str(row), 1), "one two") in (
            "one",
            "two",
            "one two",
        )
    assert family.rewrite(family.Settings(), generator(0, "r", 1), " ") == " "


def test_ngrams_are_neighbours_of_every_length_and_place():
    family = plugin("views", "ngrams")
    words = [f"w{n}" for n in range(9)]
    lengths: Counter[int] = Counter()
    starts = set()
    for row in range(300):
        found = family.rewrite(
            family.Settings(shortest=2, longest=4), generator(0, str(row), 1), " ".join(words)
        ).split()
        start = words.index(found[0])
        assert found == words[start : start + len(found)]
        lengths[len(found)] += 1
        starts.add(start)
    assert set(lengths) == {2, 3, 4}
    assert starts == set(range(8))
    assert family.rewrite(family.Settings(shortest=5), generator(0, "r", 1), "a b") == "a b"


def test_pairs_join_a_row_with_another_and_say_which(texts: Dataset):
    views = read("pairs", separator=" / ")
    rows, numbers = np.repeat(np.arange(40), 4), np.tile(np.arange(1, 5), 40)
    partners = views.partners(texts, rows, numbers)
    assert (partners != rows).all()
    assert len(np.unique(partners)) > 80
    contents = texts.content(np.arange(len(texts)))
    for row, number, partner in zip(rows.tolist(), numbers.tolist(), partners.tolist(), strict=True):
        assert views.text(texts, row, number) == f"{contents[row]} / {contents[partner]}"
    assert views.partners(texts, rows, 0 * numbers).tolist() == rows.tolist()
    assert read("word_dropout").partners(texts, rows, numbers).tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "crops", "count": 0}, r"views\.count: 0 views; write 1 or more, or drop `views`"),
        ({"family": "crops", "count": -1}, r"views\.count.* should be greater than or equal to 1"),
        (
            {"family": "crop", "count": 1},
            r"no 'crop' in pipeline/views/ \(did you mean `crops`\?\); there are crops, flips",
        ),
        ({"count": 1}, r"views: missing key `family`; one of crops, flips"),
        ({"family": "crops"}, r"views: missing key `count`"),
        (
            {"family": "crops", "count": 1, "size": 3},
            r"unknown key `size`; allowed are colour, mirror, ratio, smallest",
        ),
        ({"family": "flips", "count": 2}, r"views\.count: 2 views, and `flips` makes 1 that differ; write count: 1"),
        ({"family": "ngrams", "count": 1, "shortest": 9, "longest": 2}, r"shortest is 9 and longest 2"),
        (4, r"views: expected a mapping such as \{family: crops, count: 4\}, found 4"),
    ],
)
def test_wrong_views_are_refused_in_one_line(values: Any, message: str):
    with pytest.raises(UserError, match=message) as caught:
        teacher_views(Params({"teachers": {"t": {"family": "timm", "views": values}}}), "t")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("params.yaml: teachers.t.views")


def test_views_of_another_kind_of_row_are_refused_with_those_that_fit():
    with pytest.raises(UserError, match=r"t: `crops` changes images, and the dataset holds texts; take ngrams, pairs"):
        read("crops").check("text", "t")
    with pytest.raises(UserError, match=r"t: `ngrams` changes texts, and the dataset holds images; take crops, flips"):
        read("ngrams").check("image", "t")
    read("pairs").check("text", "t")


def test_a_teacher_without_views_has_none():
    assert teacher_views(Params({"teachers": {"t": {"family": "timm"}}}), "t") is None
