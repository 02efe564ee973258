"""`aft features`, as a user types it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head
from stages import features

run = CliRunner()


def aft(*arguments: Any) -> Any:
    """The result of a command; what it raises for the user is raised here too."""
    result = run.invoke(features.app, [str(argument) for argument in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


@pytest.fixture
def path(make: Any, ids: list[str]) -> Path:
    make(ids, heads={"pooled": Head((6,), "float32")})
    return make.path


def test_ls_and_info_speak_to_people_and_to_machines(path: Path):
    assert "50 rows, pooled (6,) float32" in aft("ls", path.parent).output
    assert json.loads(aft("ls", path.parent, "--json").output)["stores"][0]["rows"] == 50
    assert "bytes per row" in aft("info", path).output
    assert json.loads(aft("info", path, "--json").output)["heads"][0]["statistics"]["sample"] == 50


def test_verify_ends_with_an_error_if_anything_is_wrong(path: Path):
    assert aft("verify", path).exit_code == 0
    (path / "pooled" / "c.1.0").write_bytes(bytes(212))
    result = aft("verify", path)
    assert result.exit_code == 1
    assert (
        "pooled/c.1.0: its bytes are not those that were written (head `pooled`, shard 1, rows 8-15)" in result.output
    )
    found = json.loads(aft("verify", path, "--json").output)
    assert [(fault["shard"], fault["start"], fault["stop"]) for fault in found["faults"]] == [(1, 8, 16)]


def test_diff_and_gc_and_the_two_ways(path: Path, tmp_path: Path):
    assert aft("export", path, tmp_path / "f.parquet").output.startswith("50 rows -> ")
    aft("import", tmp_path / "f.parquet", "--store", tmp_path / "back")
    assert "recipe: the same" in aft("diff", path, tmp_path / "back").output
    assert FeatureStore.open(tmp_path / "back").content_digest == FeatureStore.open(path).content_digest
    assert "0 leftovers" in aft("gc", tmp_path / "nothing").output
    with pytest.raises(UserError, match="no feature store"):
        aft("info", tmp_path / "nothing")


@pytest.fixture
def project(tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a prepared dataset and the features of a real, tiny teacher."""
    import yaml

    from pipeline.data import Dataset, PrepareSettings, prepare
    from pipeline.extraction import ExtractSettings, extract
    from pipeline.machine import Machine
    from pipeline.params import Params

    monkeypatch.chdir(tmp_path)
    lines = [
        "id,text,label",
        *(f"r{k},{'good' if k % 2 else 'bad'} film {'a ' * (k % 9)}x{k},{k % 2}" for k in range(60)),
    ]
    Path("table.csv").write_text("\n".join(lines))
    source = {
        "family": "text_table",
        "path": "table.csv",
        "text_column": "text",
        "label_column": "label",
        "id_column": "id",
    }
    values = {
        "dataset": {
            "source": source,
            "task": "classification",
            "splits": 1,
            "test": 10,
            "val": 10,
            "labelled": 10,
            "seed": 0,
        },
        "extract": {"precision": "float32"},
        "machine": {"device": "cpu", "workers": 1},
        "teachers": {"tiny": {"family": "transformers", "model": str(tiny_encoder)}},
    }
    Path("params.yaml").write_text(yaml.safe_dump(values))
    params = Params(values)
    prepare(params.read(PrepareSettings, "dataset"), Path("data"))
    settings, machine = params.read(ExtractSettings, "extract"), params.read(Machine, "machine")
    family, spec = params.plugin("teachers", "teachers.tiny")
    teacher = family.load(spec, settings.precision, machine.torch_device())
    extract(Dataset.open("data"), teacher, Path("features/tiny.zarr"), settings)
    return tmp_path


def test_verify_runs_the_teacher_again(project: Path):
    result = aft("verify", "features/tiny.zarr", "--recompute", 20)
    assert result.exit_code == 0 and "20 rows computed again agree" in result.output
    store = FeatureStore.open("features/tiny.zarr")
    # Features of wrong rows, in a store whose every byte is as it was written.
    from pipeline.store import StoreWriter

    values, rows = np.roll(store[:], 1, axis=0), store.rows
    shutil.rmtree("features/tiny.zarr")
    with StoreWriter.open(
        "features/tiny.zarr", rows=rows, dataset=store.dataset, recipe=store.recipe, heads=store.heads
    ) as writer:
        for shard in writer.missing():
            writer.write(shard, {"pooled": values[shard.rows]})
    assert aft("verify", "features/tiny.zarr").exit_code == 0
    result = aft("verify", "features/tiny.zarr", "--recompute", 20)
    assert result.exit_code == 1 and "20 rows computed again DIFFER" in result.output


def test_a_teacher_with_another_recipe_is_no_witness(project: Path):
    with pytest.raises(UserError, match=r"teacher `tiny` has another recipe than the store \(.*precision"):
        aft("verify", "features/tiny.zarr", "--recompute", 5, "-S", "extract.precision=bfloat16")
    with pytest.raises(UserError, match="no head `cls`"):
        aft("verify", "features/tiny.zarr", "--recompute", 5, "--head", "cls")


def test_an_export_may_follow_a_split_of_the_dataset(project: Path):
    import torch

    from pipeline.data import Dataset

    aft("export", "features/tiny.zarr", "out.pt", "--data", "data")
    found = torch.load("out.pt", weights_only=True)
    test = Dataset.open("data").split(0).test
    assert found["test"].shape[0] == len(test) and found["train"].shape[0] == 60 - len(test)
    np.testing.assert_array_equal(found["test"], FeatureStore.open("features/tiny.zarr")[test])
    aft("import", "out.pt", "--store", "back")
    np.save("bare.npy", FeatureStore.open("features/tiny.zarr")[:])
    aft("import", "bare.npy", "--store", "known", "--data", "data")
    FeatureStore.open("known").check(dataset=Dataset.open("data").digest, ids=Dataset.open("data").ids)


def test_stores_behind_a_url_are_looked_into_where_they_are(project: Path):
    packed = f"zip://::{shutil.make_archive('packed', 'zip', 'features/tiny.zarr')}"
    assert aft("verify", packed).exit_code == 0
    assert "resident: not on this machine" in aft("info", packed).output
    assert "0 with other content, 0 moved" in aft("diff", packed, "features/tiny.zarr").output
    assert "60 rows -> out.npy" in aft("export", packed, "out.npy").output
