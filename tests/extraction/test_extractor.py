import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.extraction import Extraction, ExtractSettings, extract
from pipeline.machine import Machine
from pipeline.params import parse, read_plugin
from pipeline.store import FeatureStore
from pipeline.teachers import Teacher

from ..made_up_gpu import MadeUpGpu
from ..waiting import wait_until

CPU = torch.device("cpu")
WORDS = np.array(["a", "film", "is", "that", "and", "good", "bad", "not", "long", "plain"])


def make_texts(folder: Path, rows: int, seed: int = 0) -> Dataset:
    """Texts of 1 to 40 words, all different."""
    random = np.random.default_rng(seed)
    lines = ["id,mood,text"]
    lines += [f"r{row},{row % 2},{' '.join(random.choice(WORDS, random.integers(1, 40)))} {row}" for row in range(rows)]
    folder.mkdir(parents=True)
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    columns = {"text_column": "text", "id_column": "id", "label_column": "mood"}
    source = {"family": "text_table", "path": str(folder / "texts.csv"), **columns}
    values = {"source": source, "task": "classification", "deduplicate": "none", "val": 20, "test": 20}
    prepare(parse(PrepareSettings, values, "dataset"), folder / "data")
    return Dataset.open(folder / "data")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_texts(tmp_path_factory.mktemp("texts") / "texts", 700)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    values = {"source": {"family": "digits"}, "limit": 60, "val": 10, "test": 10, "deduplicate": "none"}
    out = tmp_path_factory.mktemp("digits") / "data"
    prepare(parse(PrepareSettings, values, "dataset"), out)
    return Dataset.open(out)


def settings(**values: Any) -> ExtractSettings:
    return parse(ExtractSettings, {"shard_rows": 256, "dtype": "float32", **values}, "extract")


Load = Callable[..., Teacher]


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> Load:
    def load(precision: str = "float32", **changes: Any) -> Teacher:
        section = {"family": "transformers", "model": str(tiny_encoder), **changes}
        family, spec = read_plugin("teachers", section, "teachers.tiny")
        return family.load(spec, precision, CPU)

    return load


def bits(store: Path) -> dict[str, str]:
    """Digests of all files of a store, of which markers also say how long the work took: that aside."""
    found = {}
    for path in sorted(store.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.match("c.*.json"):
                record = json.loads(content)
                assert record["files"]
                content = repr([record[key] for key in ("start", "stop", "rows_digest", "identity", "files")]).encode()
            found[path.relative_to(store).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def test_cached_features_equal_those_of_a_plain_script(
    texts: Dataset, encoder: Load, tiny_encoder: Path, tmp_path: Path
) -> None:
    result = extract(texts, encoder(heads=["pooled", "cls"]), tmp_path / "s.zarr", settings())
    store = FeatureStore.open(tmp_path / "s.zarr")
    model = hf.AutoModel.from_pretrained(tiny_encoder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(tiny_encoder)
    rows = np.arange(0, len(texts), 7)
    expected = []
    for text in texts.content(rows):
        inputs = tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
        with torch.no_grad():
            expected.append(model(**inputs).last_hidden_state[0])
    pooled = store.reader("pooled")(rows)
    np.testing.assert_allclose(pooled, [states.mean(0) for states in expected], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(store.reader("cls")(rows), [states[0] for states in expected], rtol=1e-4, atol=1e-5)
    store.check(dataset=texts.digest, ids=texts.ids)
    assert (result.rows, result.written, result.reused) == (700, 700, 0)


def test_images_come_out_in_the_order_of_the_rows(digits: Dataset, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    section = {"family": "timm", "model": "test_vit", "weights": str(tmp_path / "w.safetensors")}
    family, spec = read_plugin("teachers", section, "teachers.tiny")
    teacher = family.load(spec, "float32", CPU)
    extract(digits, teacher, tmp_path / "s.zarr", settings(batch_size=7, shard_rows=16), Machine(workers=3))
    rows = np.arange(len(digits))
    expected = [
        teacher.forward(teacher.collate([teacher.transform(content)]))["pooled"][0] for content in digits.content(rows)
    ]
    np.testing.assert_allclose(FeatureStore.open(tmp_path / "s.zarr")[rows], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_narrow_storage_only_rounds(texts: Dataset, encoder: Load, tmp_path: Path, dtype: str, error: float) -> None:
    extract(texts, encoder(), tmp_path / "wide.zarr", settings())
    extract(texts, encoder(), tmp_path / "narrow.zarr", settings(dtype=dtype))
    rows = np.arange(len(texts))
    wide, narrow = (FeatureStore.open(tmp_path / f"{name}.zarr")[rows] for name in ("wide", "narrow"))
    np.testing.assert_allclose(narrow, wide, rtol=error, atol=1e-6)
    assert not np.array_equal(narrow, wide)


def test_int8_is_off_by_half_a_step_of_its_row_at_most(texts: Dataset, encoder: Load, tmp_path: Path) -> None:
    extract(texts, encoder(), tmp_path / "wide.zarr", settings())
    extract(texts, encoder(), tmp_path / "narrow.zarr", settings(dtype="int8", codec="auto"))
    wide, narrow = (FeatureStore.open(tmp_path / f"{name}.zarr") for name in ("wide", "narrow"))
    step = np.abs(wide[:]).max(axis=1, keepdims=True) / 127
    assert (np.abs(narrow[:] - wide[:]) <= 0.5001 * step).all()
    assert narrow.heads["pooled"].codec == "auto" and narrow.nbytes < wide.nbytes


def test_batch_size_and_workers_change_nothing_but_rounding(texts: Dataset, encoder: Load, tmp_path: Path) -> None:
    extract(texts, encoder(), tmp_path / "a.zarr", settings(batch_size=64), Machine(workers=1))
    extract(texts, encoder(), tmp_path / "b.zarr", settings(batch_size=64), Machine(workers=4))
    extract(texts, encoder(), tmp_path / "c.zarr", settings(batch_size=5))
    assert bits(tmp_path / "a.zarr") == bits(tmp_path / "b.zarr")
    rows = np.arange(len(texts))
    a, c = (FeatureStore.open(tmp_path / f"{name}.zarr")[rows] for name in "ac")
    np.testing.assert_allclose(c, a, rtol=1e-4, atol=1e-5)


def test_a_complete_store_is_left_as_it_is(texts: Dataset, encoder: Load, tmp_path: Path) -> None:
    extract(texts, encoder(), tmp_path / "s.zarr", settings())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s.zarr").rglob("*") if path.is_file()}
    again = extract(texts, encoder(), tmp_path / "s.zarr", settings())
    assert (again.written, again.reused) == (0, 700)
    assert "complete, nothing to do for 700 rows" in str(again)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s.zarr").rglob("*") if path.is_file()}


def test_another_recipe_starts_again_and_says_what_changed(texts: Dataset, encoder: Load, tmp_path: Path) -> None:
    extract(texts, encoder(), tmp_path / "s.zarr", settings())
    mean = FeatureStore.open(tmp_path / "s.zarr")[np.arange(700)]
    heard: list[str] = []
    again = extract(texts, encoder(pooling="cls"), tmp_path / "s.zarr", settings(), name="tiny", say=heard.append)
    assert again.written == 700
    assert heard == [
        "tiny: recipe changed (pooling: mean -> cls): starting again",
        "tiny: 700 texts, float32 on cpu, by 32; 0.1 MB (pooled 128 B a row)",
    ]
    assert np.abs(FeatureStore.open(tmp_path / "s.zarr")[np.arange(700)] - mean).max() > 0.1


def test_only_new_rows_are_extracted_when_the_dataset_grows(encoder: Load, tmp_path: Path) -> None:
    small, large = make_texts(tmp_path / "small", 300), make_texts(tmp_path / "large", 400)
    assert set(small.ids) < set(large.ids)
    extract(small, encoder(), tmp_path / "s.zarr", settings())
    result = extract(large, encoder(), tmp_path / "s.zarr", settings())
    same = np.isin(large.row_digests.view("V16"), small.row_digests.view("V16")).sum()
    assert (result.written, result.reused) == (400 - same, same)
    extract(large, encoder(), tmp_path / "fresh.zarr", settings())
    rows = np.arange(400)
    grown, fresh = (FeatureStore.open(tmp_path / f"{name}.zarr")[rows] for name in ("s", "fresh"))
    np.testing.assert_allclose(grown, fresh, rtol=1e-4, atol=1e-5)


def test_a_new_head_is_added_alongside_the_old(texts: Dataset, encoder: Load, tmp_path: Path) -> None:
    extract(texts, encoder(), tmp_path / "s.zarr", settings())
    before = FeatureStore.open(tmp_path / "s.zarr")[np.arange(700)]
    extract(texts, encoder(heads=["pooled", "cls"]), tmp_path / "s.zarr", settings())
    store = FeatureStore.open(tmp_path / "s.zarr")
    assert set(store.heads) == {"pooled", "cls"}
    assert np.array_equal(store.reader("pooled")(np.arange(700)), before)


EXTRACT = """
import sys, time, torch
from pathlib import Path
from pipeline.extraction import ExtractSettings, extract
from pipeline.params import parse, read_plugin
from pipeline.data import Dataset
data, model, out, *batches = sys.argv[1:]
torch.set_num_threads(1)
family, spec = read_plugin("teachers", {"family": "transformers", "model": model}, "x")
settings = parse(ExtractSettings, {"shard_rows": 256, "batch_size": 4}, "x")
teacher = family.load(spec, "float32", torch.device("cpu"))
if batches:
    forward, left = teacher.forward, iter(range(int(batches[0])))
    teacher.forward = lambda batch: time.sleep(86_400) if next(left, None) is None else forward(batch)
print(extract(Dataset.open(data), teacher, Path(out), settings))
"""


def start(data: Path, model: Path, out: Path, *batches: str) -> subprocess.Popen[str]:
    """Extract in a process of its own, which waits for its end after so many batches, if they are given."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    command = [sys.executable, "-c", EXTRACT, str(data), str(model), str(out), *batches]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_middle_it_continues_to_the_very_same_store(tiny_encoder: Path, tmp_path: Path) -> None:
    data = make_texts(tmp_path / "texts", 1000).path
    with start(data, tiny_encoder, tmp_path / "killed.zarr", "150") as killed:  # a shard has 64
        wait_until(lambda: len(list((tmp_path / "killed.zarr" / "pooled").glob("c.*.json"))) == 2, killed)
        killed.kill()
    with pytest.raises(UserError, match="2 of 4 shards"):
        FeatureStore.open(tmp_path / "killed.zarr")

    said = {}
    for name in ("undisturbed", "killed"):
        with start(data, tiny_encoder, tmp_path / f"{name}.zarr") as process:
            said[name], wrong = process.communicate()
        assert process.returncode == 0, wrong
    assert "1,000 extracted" in said["undisturbed"]
    assert "488 extracted" in said["killed"] and "512 were there" in said["killed"]
    assert bits(tmp_path / "killed.zarr") == bits(tmp_path / "undisturbed.zarr")


class Made(Teacher):
    """A teacher whose features are the length of a text, and whatever a test wants to happen."""

    kind = "text"
    device = CPU
    uniform = False

    def __init__(self, transform: Callable[[str], Any] = len):
        self.heads = {"pooled": (1,)}
        self.recipe = {"family": "made", "precision": "float32"}
        self._transform = transform
        self.batches: list[list[int]] = []

    def transform(self, content: str | bytes) -> Any:
        assert isinstance(content, str)
        return self._transform(content)

    def cost(self, example: Any) -> int:
        return int(example)

    def collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        return {"lengths": torch.tensor(examples, dtype=torch.float32)}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.batches.append(batch["lengths"].int().tolist())
        return {"pooled": batch["lengths"][:, None]}


def test_rows_of_similar_length_share_a_batch_longest_first(texts: Dataset, tmp_path: Path) -> None:
    teacher = Made()
    extract(texts, teacher, tmp_path / "s.zarr", settings(batch_size=32))
    lengths = np.array([len(text) for text in texts.content(np.arange(700))])
    expected = []
    for begin in range(0, 700, 256):
        shard = sorted(lengths[begin : begin + 256].tolist(), reverse=True)
        expected += [shard[at : at + 32] for at in range(0, len(shard), 32)]
    assert teacher.batches == expected
    np.testing.assert_array_equal(FeatureStore.open(tmp_path / "s.zarr")[np.arange(700)][:, 0], lengths)


def test_a_row_that_cannot_be_read_is_named_and_finished_shards_are_kept(texts: Dataset, tmp_path: Path) -> None:
    bad = texts.content([600])[0]

    def refuse(text: str) -> int:
        if text == bad:
            raise ValueError("no such letters")
        return len(text)

    with pytest.raises(UserError, match="row r600 cannot be read: no such letters"):
        extract(texts, Made(refuse), tmp_path / "s.zarr", settings())
    result = extract(texts, Made(), tmp_path / "s.zarr", settings())
    assert result.reused >= 256
    assert result.reused + result.written == 700


def test_features_that_are_not_finite_name_their_row(texts: Dataset, tmp_path: Path) -> None:
    class Broken(Made):
        def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            said = super().forward(batch)["pooled"]
            return {"pooled": torch.where(said == len(texts.content([5])[0]), torch.nan, said)}

    with pytest.raises(UserError, match=r"r5\b.*NaN"):
        extract(texts, Broken(), tmp_path / "s.zarr", settings())


def test_a_teacher_of_another_kind_is_refused_before_anything_is_written(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reads text rows, and the dataset .* holds image"):
        extract(digits, Made(), tmp_path / "s.zarr", settings())
    assert not (tmp_path / "s.zarr").exists()


def test_a_log_gets_a_line_with_rate_and_time_left(
    texts: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.progress.EVERY", 0.0)
    extract(texts, Made(), tmp_path / "s.zarr", settings(batch_size=256), name="made")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["made: 256/700", "made: 512/700", "made: 700/700"]
    assert all(re.search(r" texts/s \(\d+% of the bare model, held up by .+\), .* left$", line) for line in lines)


def test_the_result_says_what_was_done(tmp_path: Path) -> None:
    done = Extraction(tmp_path / "s.zarr", 100, 60, 40, 0.5, 120.0, ())
    assert str(done).endswith("s.zarr: 100 rows; 60 extracted in 0 s (120 rows/s), 40 were there")


def test_a_gpu_is_waited_for_once_a_shard(texts: Dataset, tiny_encoder: Path, tmp_path: Path) -> None:
    section = {"family": "transformers", "model": str(tiny_encoder)}
    family, spec = read_plugin("teachers", section, "teachers.tiny")
    extract(texts, family.load(spec, "float32", CPU), tmp_path / "cpu.zarr", settings(dtype="float16", batch_size=64))
    with MadeUpGpu() as gpu:
        teacher = family.load(spec, "float32", torch.device("cuda"))
        gpu.waits.clear()
        extract(texts, teacher, tmp_path / "cuda.zarr", settings(dtype="float16", batch_size=64))
    own = {place: number for place, number in gpu.waits.items() if "text_body" not in place}
    assert sorted(own.values()) == [3, 3], "three shards: their features, and their largest values"
    assert gpu.waits.total() <= 6 + 11, (
        "transformers itself looks at the mask of each batch, to see whether it is needed"
    )
    assert np.array_equal(*(FeatureStore.open(tmp_path / f"{name}.zarr")[np.arange(700)] for name in ("cpu", "cuda")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_features_of_a_cpu(texts: Dataset, tiny_encoder: Path, tmp_path: Path) -> None:
    section = {"family": "transformers", "model": str(tiny_encoder)}
    family, spec = read_plugin("teachers", section, "teachers.tiny")
    for device in ("cpu", "cuda"):
        extract(texts, family.load(spec, "float32", torch.device(device)), tmp_path / f"{device}.zarr", settings())
    rows = np.arange(700)
    cpu, cuda = (FeatureStore.open(tmp_path / f"{device}.zarr")[rows] for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda, cpu, rtol=1e-3, atol=1e-4)


def test_notes_of_a_teacher_and_the_size_are_printed_first(texts: Dataset, tmp_path: Path) -> None:
    teacher, heard = Made(), []
    teacher.notes = ("mind the step",)
    extract(texts, teacher, tmp_path / "s.zarr", settings(), name="made", say=heard.append)
    assert heard == ["made: mind the step", "made: 700 texts, float32 on cpu, by 32; 0.0 MB (pooled 4 B a row)"]
