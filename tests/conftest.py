"""A small project that is there in a second: texts of three classes, and the features of two made-up teachers."""

import contextlib
import csv
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import yaml

from pipeline import objects
from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.params import Params
from pipeline.probing import ProbeSettings, probe
from pipeline.project import Project
from pipeline.store import FeatureStore, Head, RowIndex, StoreWriter
from stages import entry
from stages.app import app

# A parent that ignores Ctrl-C, as a shell does for what it starts in the background, hands that down to all tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

# By default an example may take 200 ms, on a machine that does something else as well.
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")

CLASSES = ("bad", "good", "plain")
PARAMS = {
    "dataset": {
        "source": {
            "family": "text_table",
            "path": "raw/reviews.csv",
            "text_column": "text",
            "label_column": "mood",
            "id_column": "id",
        },
        "splits": 2,
        "test": 60,
        "val": 30,
        "labelled": 30,
        "seed": 0,
    },
    "extract": {"precision": "float32", "batch_size": 16},
    "teachers": {"wise": {"family": "transformers", "model": "m"}, "loud": {"family": "transformers", "model": "m"}},
    "probe": {"strengths": [0.01, 1.0]},
    "assess": {"neighbours": [1, 5, 9], "kernel_rows": 100},
    "students": {"bag": {"family": "bag_of_words", "width": 16, "dropout": 0.1}},
    "train": {"steps": 30, "batch_size": 16, "transfer_batch_size": 32, "learning_rate": 0.01, "seeds": [0, 1, 2]},
    "machine": {"device": "cpu", "workers": 1},
    "runs": {
        "none": {"student": "bag"},
        "aft": {"student": "bag", "teachers": ["wise"], "methods": [{"name": "aft", "weight": [0.0, 3.0]}]},
        "both": {"student": "bag", "teachers": ["wise", "loud"], "methods": [{"name": "kd", "weight": 1.0}]},
    },
}


WORDS = [*(f"word{n}" for n in range(60)), *(f"{mood}{n}" for mood in CLASSES for n in range(12))]
"""All that the texts of the small project are made of."""


def write_table(path: Path, rows: int = 240, seed: int = 0) -> None:
    """Texts whose class shows in some of their words; every tenth has no label."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "mood"])
        for row in range(rows):
            mood = row % 3
            telling = [f"{CLASSES[mood]}{n}" for n in random.integers(0, 12, 2)]
            words = [*telling, *(f"word{n}" for n in random.integers(0, 60, 6))]
            writer.writerow([f"r{row:04}", " ".join(random.permutation(words)), CLASSES[mood] if row % 10 else ""])


def write_store(
    data: Dataset, path: Path, width: int, seed: int, logits: np.ndarray | None = None, head: str = "logits"
) -> FeatureStore:
    """Features that know the class a row was made with, under noise; and a head of logits, where there are any."""
    random = np.random.default_rng(seed)
    truth = np.array([int(name[1:]) % 3 for name in data.ids])
    features = random.normal(size=(3, width))[truth] + random.normal(size=(len(data), width))
    rows = RowIndex(ids=data.ids, digests=data.row_digests)
    values_of = {"pooled": features} | ({} if logits is None else {head: logits})
    heads = {"pooled": Head(shape=(width,), dtype="float16")}
    if logits is not None:
        heads[head] = Head(shape=logits.shape[1:], dtype="float32")
    recipe = {"teacher": path.stem, "seed": seed}
    with StoreWriter.open(path, rows=rows, dataset=data.digest, recipe=recipe, heads=heads) as writer:
        for shard in writer.missing():
            writer.write(shard, {name: values[shard.start : shard.stop] for name, values in values_of.items()})
    return FeatureStore.open(path)


def class_logits(data: Dataset) -> np.ndarray:
    """Logits [n, 3] of a head that knows the class a row was made with, no two rows alike."""
    truth = np.array([int(name[1:]) % 3 for name in data.ids])
    return np.eye(3)[truth] * 4 + np.random.default_rng(5).normal(size=(len(data), 3))


@pytest.fixture(scope="session")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("project")
    write_table(root / "raw" / "reviews.csv")
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    with contextlib.chdir(root):
        prepare(Params(PARAMS).read(PrepareSettings, "dataset"), root / "data")
    data = Dataset.open(root / "data")
    for name, width, seed in (("wise", 24, 1), ("loud", 8, 2)):
        write_store(data, root / "features" / f"{name}.zarr", width, seed)
        probe(name, Params(PARAMS).read(ProbeSettings, "probe"), Project(root))
    return root


@pytest.fixture
def project(made_project: Path, tmp_path: Path) -> Path:
    """A copy of the small project, prepared, extracted and probed, for one test to change."""
    return Path(shutil.copytree(made_project, tmp_path / "project"))


@pytest.fixture
def third(project: Path, tmp_path: Path) -> Path:
    """A project with a teacher that has no features yet."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["teachers"]["third"] = {"family": "transformers", "model": str(write_encoder(tmp_path / "m", WORDS))}
    params["runs"]["third"] = {"student": "bag", "teachers": ["third"], "methods": {"aft": {"weight": 1.0}}}
    params["runs"]["long"] = params["runs"]["third"] | {"train": {"steps": 3000}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    return project


@pytest.fixture
def params(project: Path) -> Params:
    """The settings of that copy."""
    return Params.load(project / "params.yaml")


@pytest.fixture
def aft(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Types `aft ARGUMENTS` in the folder of that copy: its exit code, and what it prints.

    All in this process: a process for each command would spend its time on importing.
    """

    def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with monkeypatch.context() as kept, pytest.raises(SystemExit) as end:
            kept.chdir(project)
            kept.setattr(sys, "argv", ["aft", *arguments])
            kept.setattr(sys, "stdout", sys.stdout)
            entry.run(app, "aft")
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(arguments, end.value.code, *capfd.readouterr())

    return typed


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.finished import finish

    return finish(tmp_path_factory.mktemp("finished") / "project")


@pytest.fixture
def finished(finished_project: Path, tmp_path: Path) -> Path:
    """A copy of a small project on which every command has run, for one test to change."""
    return Path(shutil.copytree(finished_project, tmp_path / "finished", symlinks=True))


def write_encoder(folder: Path, words: Sequence[str], width: int = 32, layers: int = 2) -> Path:
    """A text encoder of transformers in a folder: random weights, a tokenizer that knows `words`."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=2 * width, max_position_embeddings=48, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text encoder of transformers: two layers, random weights, a tokenizer that knows ten words."""
    words = ["a", "film", "is", "that", "and", "good", "bad", "not", "long", "plain"]
    return write_encoder(tmp_path_factory.mktemp("encoder"), words)


def flip_a_bit(store: Path) -> None:
    """Change one bit of a store's first shard of pooled features, in the middle, as a failing disk would."""
    shard = min(path for path in (store / "pooled").glob("c*") if path.suffix != ".json")
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)


@pytest.fixture(scope="session")
def running() -> Iterator[Any]:
    """A service that speaks S3, with an empty bucket; see `tests/store/backends/s3.py`."""
    for package in ("obstore", "moto"):
        pytest.importorskip(package)
    from tests.store.backends.s3 import BUCKET, Service

    service = Service()
    service.create(BUCKET)
    yield service
    service.stop()


@pytest.fixture
def service(running: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, with an environment that leads to it."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "never-in-a-file", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": running.url,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    objects._bucket.cache_clear()
    running.requests.clear()
    return running
