"""Features of views in a store: what the teacher says of the replayed view, alongside clean features that stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.extraction import Extraction, ExtractSettings, extract
from pipeline.params import read_plugin
from pipeline.project import Project
from pipeline.sources import Source
from pipeline.store import FeatureStore, SourceFeatures
from pipeline.students._images import Images, ImageTransform
from pipeline.teachers import Teacher
from pipeline.views import Views

from ..conftest import WORDS, write_encoder

CPU = torch.device("cpu")
SETTINGS = ExtractSettings(dtype="float32", batch_size=16, shard_rows=32)


def write_pictures(root: Path, ids: list[int]) -> Dataset:
    """Smooth square pictures, whose ids are their names."""
    for number in ids:
        folder = root / "raw" / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(number).integers(0, 256, (6, 6, 3)).astype(np.uint8)
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    source = {"family": "image_folder", "path": str(root / "raw")}
    prepare(PrepareSettings(source=source, val=6, test=8), root / "data")
    return Dataset.open(root / "data")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_pictures(tmp_path_factory.mktemp("pictures"), list(range(70)))


@pytest.fixture(scope="module")
def texts(made_project: Path) -> Dataset:
    return Dataset.open(made_project / "data")


@pytest.fixture(scope="module")
def image_teacher(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def load(model: str, **keys: Any) -> Teacher:
        path = tmp_path_factory.mktemp("weights") / f"{model}.safetensors"
        torch.manual_seed(0)
        save_file(timm.create_model(model).state_dict(), path)
        section = {"family": "timm", "model": model, "weights": str(path), "size": 64, **keys}
        family, settings = read_plugin("teachers", section, "teachers.t")
        teacher: Teacher = family.load(settings, "float32", CPU)
        return teacher

    return load


@pytest.fixture(scope="module")
def text_teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    encoder = write_encoder(tmp_path_factory.mktemp("encoder"), WORDS)
    family, settings = read_plugin("teachers", {"family": "transformers", "model": str(encoder)}, "teachers.t")
    teacher: Teacher = family.load(settings, "float32", CPU)
    return teacher


def views_of(family: str, count: int = 2, **keys: Any) -> Views:
    return Views.read({"family": family, "count": count, **keys}, "teachers.t.views")


def run(data: Dataset, teacher: Teacher, out: Path, views: Views | None = None, **keys: Any) -> Extraction:
    return extract(data, teacher, out, SETTINGS, views=views, **keys)


def files(store: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(store.rglob("*")):
        if path.is_file() and path != store / "zarr.json":
            yield path.relative_to(store).as_posix(), path.read_bytes()


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("family", ["crops", "flips"])
def test_a_student_replays_what_the_teacher_saw(
    model: str, family: str, pictures: Dataset, image_teacher: Any, tmp_path: Path
):
    teacher = image_teacher(model)
    count = 1 if family == "flips" else 3
    views = views_of(family, count)
    run(pictures, teacher, tmp_path / "t.zarr", views)
    store = FeatureStore.open(tmp_path / "t.zarr")
    rows = np.arange(0, 70, 7)
    transform = teacher.recipe["transform"]
    assert transform["input_size"] == [3, 64, 64]
    # A student of the teacher's size and normalisation, whose batch goes through the teacher itself.
    student = Images(pictures, ImageTransform(64, 3, transform["mean"], transform["std"]), views)
    for number in range(count + 1):
        cached = store.reader(f"pooled@{family}:{number}" if number else "pooled")(rows)
        replayed = student.batch(rows, np.full(len(rows), number))
        pixels = (replayed * student.transform.std + student.transform.mean) * 255
        shown = [Image.fromarray(image.permute(1, 2, 0).round().to(torch.uint8).numpy()) for image in pixels]
        live = teacher.forward(teacher.collate([teacher.transform(image) for image in shown]))["pooled"].numpy()
        centre = cached.mean(0)
        assert cosines(cached, live).min() >= 0.999
        # What all pictures share makes any two cosines large: without it, too, and the clean rows are far away.
        assert np.median(cosines(cached - centre, live - centre)) >= 0.99
        if number:
            clean = store.reader("pooled")(rows)
            assert np.median(cosines(cached - centre, clean - centre)) < 0.95


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found: np.ndarray = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


@pytest.mark.parametrize("family", ["word_dropout", "ngrams", "pairs"])
def test_cached_features_of_a_text_are_those_of_the_replayed_text_bit_by_bit(
    family: str, texts: Dataset, text_teacher: Teacher, tmp_path: Path
):
    views = views_of(family, 2)
    run(texts, text_teacher, tmp_path / "t.zarr", views)
    store = FeatureStore.open(tmp_path / "t.zarr")
    # A dataset of the replayed texts, in the same batches, has the same bits.
    for number in (1, 2):
        replayed = Replayed.of(texts, views, number)
        run(replayed, text_teacher, tmp_path / f"{number}.zarr")
        live = FeatureStore.open(tmp_path / f"{number}.zarr")[:]
        assert np.array_equal(store.reader(f"pooled@{family}:{number}")(np.arange(len(texts))), live)
        assert not np.array_equal(store[:], live)


class Replayed(Dataset):
    """A dataset whose texts are one view of another's."""

    @classmethod
    def of(cls, data: Dataset, views: Views, number: int) -> "Replayed":
        found = cls(data.path, data.manifest, data._rows)
        found.clean, found.views, found.number = data, views, number
        return found

    clean: Dataset
    views: Views
    number: int

    def content(self, rows: Any) -> list[str]:
        return [self.views.text(self.clean, int(row), self.number) for row in rows]


def test_views_are_added_without_touching_what_is_there(texts: Dataset, text_teacher: Teacher, tmp_path: Path):
    out, n, lines = tmp_path / "t.zarr", len(texts), []
    run(texts, text_teacher, out)
    clean = dict(files(out))
    added = run(texts, text_teacher, out, views_of("ngrams", 1), say=lines.append)
    assert (added.written, added.reused) == (n, n)
    assert f"{n} texts ({n} rows, 1 view `ngrams` of each), " in lines[-1]
    assert "; 0.1 MB (pooled " in lines[-1]
    one = dict(files(out))
    assert clean.items() < one.items()
    # A larger count computes what is new alone, and comes to the store that would have been made at once.
    grown = run(texts, text_teacher, out, views_of("ngrams", 3))
    assert (grown.written, grown.reused) == (2 * n, 2 * n)
    assert one.items() < dict(files(out)).items()
    run(texts, text_teacher, tmp_path / "whole" / "t.zarr", views_of("ngrams", 3))
    assert dict(files(tmp_path / "whole" / "t.zarr")) == dict(files(out))
    assert run(texts, text_teacher, out, views_of("ngrams", 2)).written == 0


@pytest.mark.parametrize("change", [{"seed": 1}, {"longest": 4}])
def test_other_views_of_a_name_are_extracted_and_never_mixed(
    change: dict[str, Any], texts: Dataset, text_teacher: Teacher, tmp_path: Path
):
    n, project = len(texts), Project(tmp_path)
    out = project.store("t")
    run(texts, text_teacher, out, views_of("ngrams", 2))
    before = dict(files(out))
    other = views_of("ngrams", 2, **change)
    source = SourceFeatures.open(project, Source.parse("t@ngrams"))
    for wanted in (other, views_of("ngrams", 3)):
        with pytest.raises(UserError, match=r"run `aft extract t` and then `aft probe t`"):
            source.check_views([wanted.record(number, texts) for number in range(1, wanted.count + 1)])
    # One new view with other settings, alongside an old one of the same name: the old one counts no more.
    assert run(texts, text_teacher, out, views_of("ngrams", 1, **change)).written == n
    assert source.open(project, source.source).kept_views() == {"ngrams": ("pooled@ngrams:1",)}
    assert run(texts, text_teacher, out, other).written == n
    after = dict(files(out))
    clean = {name for name in before if name.startswith("pooled/c")}
    assert clean and all(after[name] == before[name] for name in clean)
    run(texts, text_teacher, tmp_path / "new" / "t.zarr", other)
    assert after == dict(files(tmp_path / "new" / "t.zarr"))


def test_a_row_of_another_id_has_views_of_its_own(image_teacher: Any, tmp_path: Path):
    teacher, views = image_teacher("test_resnet"), views_of("crops", 2)
    data = write_pictures(tmp_path, list(range(40)))
    run(data, teacher, tmp_path / "t.zarr", views)
    (tmp_path / "raw" / "even" / "08.png").rename(tmp_path / "raw" / "even" / "88.png")
    renamed = write_pictures(tmp_path, [])
    again = run(renamed, teacher, tmp_path / "t.zarr", views)
    assert (again.written, again.reused) == (3, 3 * 39)
    run(renamed, teacher, tmp_path / "new" / "t.zarr", views)
    old, new = FeatureStore.open(tmp_path / "t.zarr"), FeatureStore.open(tmp_path / "new" / "t.zarr")
    for head in new.heads:
        np.testing.assert_allclose(old.reader(head)(np.arange(40)), new.reader(head)(np.arange(40)), atol=1e-5)


def test_views_of_pairs_depend_on_all_rows(texts: Dataset):
    views = views_of("pairs")
    assert views.record(1, texts)["rows"] == texts.digest


def test_views_of_another_kind_of_row_are_refused_before_any_work(
    texts: Dataset, text_teacher: Teacher, tmp_path: Path
):
    with pytest.raises(UserError, match=r"features: views: `crops` changes images, and the dataset holds texts"):
        run(texts, text_teacher, tmp_path / "t.zarr", views_of("crops"))
    assert not (tmp_path / "t.zarr").exists()
