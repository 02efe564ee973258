"""Files of features from elsewhere: each is imported as it says, or refused in one line that names it, soon."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head
from pipeline.store.interchange import export, import_features
from pipeline.store.verification import verify
from pipeline.teachers import features
from tests.memory import at_most
from tests.store.hostile import KINDS, replace
from tests.store.odd_files import FORMATS, IDS, VALUES

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `x.FORMAT` for every format."""
    folder: Path = tmp_path_factory.mktemp("exported")
    np.save(folder / "plain.npy", VALUES)
    store = import_features(folder / "plain.npy", folder / "plain.zarr")
    with h5py.File(folder / "named.h5", "w") as file:
        file["features"], file["ids"] = np.tile(VALUES, 4).astype(np.float16), IDS
    store = import_features(folder / "named.h5", folder / "named.zarr")
    for format in FORMATS:
        export(store, folder / f"x.{format}")
    return folder


def refusal(path: Path) -> str:
    """Import a file; it must be refused, in one line that a terminal can show, with its name."""
    with at_most(1 << 30), pytest.raises(UserError) as caught:
        import_features(path, path.parent / "made.zarr")
    message = str(caught.value)
    assert path.stem in message and len(message) < 2000
    return message


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_every_file_is_imported_as_it_says_or_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, every: int
):
    taken = 0
    for number, (what, make) in enumerate(list(FORMATS[format].items())[::every]):
        folder = Path(shutil.copytree(exported, tmp_path / str(number)))
        monkeypatch.chdir(folder)
        path = Path(f"x.{format}")
        make(path)
        with at_most(1 << 30), suppress(UserError):  # also as a teacher
            features.load(features.Settings(path=str(path)), "float32", torch.device("cpu"))
        try:
            with at_most(1 << 30):
                store = import_features(path, Path("made.zarr"))
        except UserError as error:
            assert "x." in str(error) or "made.zarr" in str(error), what
            assert len(str(error)) < 2000, what
        else:
            taken += 1
            assert verify(store.path).sound, what
        assert not [*tmp_path.rglob("pwned")], what
        shutil.rmtree(folder)
    assert 0 < taken < len(FORMATS[format]) / every / 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "missing"])
def test_ids_that_cannot_be_read_are_not_left_out(exported: Path, tmp_path: Path, kind: str):
    for name in ("x.npy", "x.rows.npz"):
        shutil.copy(exported / name, tmp_path)
    replace(tmp_path / "x.rows.npz", kind)
    assert "x.rows.npz: " in refusal(tmp_path / "x.npy")


def _one_after_another(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, VALUES[:60])
        np.save(file, VALUES[60:])


def _fewer_rows(path: Path) -> None:
    np.save(path, VALUES)
    path.write_bytes(path.read_bytes().replace(b"(120, 4)", b"(119, 4)"))


@pytest.mark.parametrize("make", [_one_after_another, _fewer_rows])
def test_rows_behind_those_that_an_array_claims_are_not_left_out(tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path / "x.npy")
    assert "bytes after those of its array" in refusal(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["id", "digest"])
def test_an_exported_table_whose_ids_were_dropped_is_not_numbered(exported: Path, tmp_path: Path, name: str):
    pq.write_table(pq.read_table(exported / "x.parquet").drop_columns([name]), tmp_path / "x.parquet")
    assert f"no column `{name}`" in refusal(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["ids", "digests"])
def test_an_exported_array_whose_ids_were_dropped_is_not_numbered(exported: Path, tmp_path: Path, name: str):
    shutil.copy(exported / "x.h5", tmp_path)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file[name]
    assert f"no `{name}`" in refusal(tmp_path / "x.h5")


@pytest.mark.parametrize("about", [5, [1, 2], np.bytes_(b"\xff"), h5py.Empty("S1")])
def test_a_description_that_is_no_text_is_not_passed_over(exported: Path, tmp_path: Path, about: Any):
    shutil.copy(exported / "x.h5", tmp_path)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file.attrs["feature_store"] = about
    assert "the description of its features is damaged" in refusal(tmp_path / "x.h5")


@pytest.mark.parametrize("name", ["ids", "coords", "digests"])
def test_what_was_never_written_is_refused_at_once(exported: Path, tmp_path: Path, name: str):
    shutil.copy(exported / "x.h5", tmp_path)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file.pop(name, None)
        if name == "coords":
            del file["ids"], file.attrs["feature_store"]
        file.create_dataset(name, (10**9,), "S16", chunks=(10**6,), compression="gzip")
    assert f"`{name}`" in refusal(tmp_path / "x.h5")


def test_another_file_without_a_recipe_is_not_taken_for_the_one_that_is_there(exported: Path, tmp_path: Path):
    """Two files whose descriptions have no recipe have the same ids; the second must not count as imported."""
    for number in (1, 2):
        shutil.copy(exported / "x.h5", tmp_path / "x.h5")
        with h5py.File(tmp_path / "x.h5", "r+") as file:
            file.attrs["feature_store"] = json.dumps({"dataset": "d"})
            file["features"][:] = np.full((120, 16), number, np.float16)
        if number == 1:
            import_features(tmp_path / "x.h5", tmp_path / "made.zarr")
        else:
            with pytest.raises(UserError, match="another store is there"):
                import_features(tmp_path / "x.h5", tmp_path / "made.zarr")


def test_names_in_a_file_are_listed_as_far_as_a_line_goes(tmp_path: Path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number in range(3000):
            file.create_group(f"g{number:04}")
        file.create_group("a" * 10_000)
    assert refusal(tmp_path / "x.h5").endswith("g0038, ... (2,961 more)")


def test_the_name_of_a_head_in_a_file_is_refused_with_the_files(tmp_path: Path):
    np.save(tmp_path / "x.npy", VALUES)
    for name in ("../../up", "a\nb", "rows", "x" * 10_000):
        with pytest.raises(UserError, match=r"x\.npy: '.*cannot be a head's name") as caught:
            import_features(tmp_path / "x.npy", tmp_path / "made.zarr", head=name)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert not (tmp_path / "made.zarr").exists()


def test_every_format_is_sound_before_it_is_changed(exported: Path, tmp_path: Path):
    for format in FORMATS:
        made = import_features(exported / f"x.{format}", tmp_path / format)
        assert list(made.ids) == IDS and made.heads == {"pooled": Head((16,), "float16")}
        assert np.array_equal(made[:], FeatureStore.open(exported / "named.zarr")[:])
