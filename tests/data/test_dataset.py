"""Reading a prepared dataset: fast, from anywhere, and refusing what is damaged."""

import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.dataset import FORMAT, Dataset, Role
from pipeline.data.preparation import PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.records import from_json, to_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("prepared") / "data"
    keys = {"source": {"family": "digits"}, "splits": 3, "val": 100, "test": 300, "labelled": 50}
    prepare(parse(PrepareSettings, keys, "dataset"), out)
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "data"))


def content_of(data: Dataset) -> bytes:
    return b"".join(data.content([3, 1000, 0]))


def test_roles_are_sorted_disjoint_and_together_all_rows(folder: Path):
    data = Dataset.open(folder)
    for draw in range(3):
        split = data.split(draw)
        parts = [split.labelled, split.unlabelled, split.val, split.test]
        assert [len(part) for part in parts] == [50, 1347, 100, 300]
        assert all((np.diff(part) > 0).all() for part in parts)
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(data)))
        np.testing.assert_array_equal(split.train, np.sort(np.concatenate(parts[:2])))
        assert (np.diff(split.train) > 0).all()


def test_splits_differ_and_a_missing_one_is_refused(folder: Path):
    data = Dataset.open(folder)
    assert not np.array_equal(data.split(0).test, data.split(1).test)
    with pytest.raises(UserError, match=r"no split 3; dataset\.splits made 3, from 0"):
        data.split(3)
    with pytest.raises(UserError, match="no split -1"):
        data.split(-1)


def test_only_labels_of_labelled_rows_are_visible(folder: Path):
    data = Dataset.open(folder)
    visible, labelled = data.visible_labels(1), data.split(1).labelled
    np.testing.assert_array_equal(visible[labelled], data.labels[labelled])
    assert (np.delete(visible, labelled) == -1).all()
    assert (data.labels >= 0).all()


def test_content_comes_in_the_order_asked_for(folder: Path):
    data = Dataset.open(folder)
    rows = [5, 1796, 5, 0]
    assert data.content(np.array(rows)) == data.content(rows) == [data.content([row])[0] for row in rows]
    assert data.image(5).size == (8, 8)
    assert data.image(5).mode == "L"


def test_a_pickled_copy_reads_the_same(folder: Path):
    data = Dataset.open(folder)
    copy = pickle.loads(pickle.dumps(data))
    assert (copy.digest, content_of(copy)) == (data.digest, content_of(data))
    assert len(pickle.dumps(data)) < 1000


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_other_processes_read_the_same(folder: Path, method: str):
    data = Dataset.open(folder)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(content_of, data).result() == content_of(data)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_processes_read_the_same(folder: Path):
    data = Dataset.open(folder)
    before = content_of(data)
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        assert set(pool.map(content_of, [data] * 4)) == {before}


def test_a_folder_that_is_not_there_says_what_to_run(tmp_path: Path):
    with pytest.raises(UserError, match="data: no prepared dataset there; run `aft prepare` first"):
        Dataset.open(tmp_path / "data")


@pytest.mark.parametrize("name", ["content.arrow", "rows.parquet", "quarantine.csv"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer"])
def test_a_missing_or_truncated_file_is_named(copy: Path, name: str, damage: str):
    content = (copy / name).read_bytes()
    match damage:
        case "missing":
            (copy / name).unlink()
        case "truncated":
            (copy / name).write_bytes(content[: len(content) // 2])
        case "longer":
            (copy / name).write_bytes(content + b"!")
    with pytest.raises(UserError, match=rf"{name}: (damaged|no such file); run `aft prepare` again") as bad:
        Dataset.open(copy)
    assert "\n" not in str(bad.value)


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b"{}", b'{"format": 2}', b"\xff\xfe", b"null"])
def test_a_manifest_that_is_no_manifest_is_damage(copy: Path, manifest: bytes):
    (copy / "manifest.json").write_bytes(manifest)
    with pytest.raises(UserError, match="damaged") as bad:
        Dataset.open(copy)
    assert "\n" not in str(bad.value)


def test_another_format_is_refused_by_number(copy: Path):
    path = copy / "manifest.json"
    path.write_text(to_json(from_json(path.read_bytes()) | {"format": 99}))
    with pytest.raises(UserError, match=f"has format 99 instead of {FORMAT}"):
        Dataset.open(copy)


def test_content_of_nothing_but_noise_is_damage(copy: Path):
    size = (copy / "content.arrow").stat().st_size
    (copy / "content.arrow").write_bytes(bytes(size))
    with pytest.raises(UserError, match="damaged"):
        Dataset.open(copy)


def test_roles_of_nothing_but_noise_are_damage(copy: Path):
    (copy / "rows.parquet").write_bytes(bytes((copy / "rows.parquet").stat().st_size))
    with pytest.raises(UserError, match=r"rows\.parquet: damaged"):
        Dataset.open(copy).split(0)


def test_verify_finds_a_flipped_bit_and_names_the_row(copy: Path):
    Dataset.open(copy).verify()
    content = bytearray((copy / "content.arrow").read_bytes())
    data = Dataset.open(copy)
    image = data.content([1000])[0]
    place = content.find(image)
    content[place + 20] ^= 1
    with (copy / "content.arrow").open("r+b") as file:  # the same file, which is mapped
        file.write(content)
    with pytest.raises(UserError, match="the content of row 1001 has changed"):
        data.verify()
    with pytest.raises(UserError, match=r"content\.arrow: damaged"):
        Dataset.open(copy)


def test_roles_have_their_place_in_the_file(folder: Path):
    manifest = Dataset.open(folder).manifest
    assert manifest.roles == {"labelled": 0, "unlabelled": 1, "val": 2, "test": 3}
    assert [role.name.lower() for role in Role] == list(manifest.roles)


@pytest.mark.parametrize("change", [{"splits": 0}, {"splits": -1}, {"outputs": ("0", "1")}, {"outputs": ()}])
def test_a_record_that_somebody_has_changed_and_signed_is_refused(copy: Path, change: dict[str, object]):
    fields = from_json((copy / "manifest.json").read_bytes())
    (copy / "manifest.json").write_text(to_json(fields | change))
    with pytest.raises(UserError, match=r"manifest\.json: .*; run `aft prepare` again"):
        Dataset.open(copy).labels  # noqa: B018
