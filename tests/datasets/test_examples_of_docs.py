"""Every example of docs/data.md, prepared as it is written there."""

import csv
import gzip
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.params import parse

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(block)["dataset"] for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
TASKS = {"price": "regression", "tags": "multilabel"}


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 5, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def table(path: str, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with (gzip.open if path.endswith(".gz") else open)(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Any) -> Path:
    """A folder, and a bucket, with the data that the examples name."""
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "raw"
    raw.mkdir()
    texts = [{"text": f"text {n}", "mood": "ab"[n % 2]} for n in range(60)]
    table("raw/reviews.csv", texts)
    (raw / "more.txt").write_text("".join(f"another text {n}\n" for n in range(20)))
    for part in range(2):
        rows = [text | {"id": f"{part}-{n}", "part": "test" if n < 9 else "train"} for n, text in enumerate(texts)]
        table(f"raw/part-{part}.csv.gz", [row | {"text": f"{row['text']} of {part}"} for row in rows])
    pairs = [{"premise": f"It is {n}.", "hypothesis": "Is it?", "entails": "yn"[n % 2]} for n in range(60)]
    table("raw/pairs.tsv", pairs, "\t")
    table("raw/tags.csv", [{"text": f"text {n}", "tags": ("sun;sea", "sea", "sun")[n % 3]} for n in range(60)])
    for n in range(60):
        for folder in (f"photos/{'cd'[n % 2]}", "files"):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            (raw / folder / f"{n}.png").write_bytes(png(n))
    table("raw/prices.csv", [{"photo": f"files/{n}.png", "price": n / 4} for n in range(60)])
    images = [{"bytes": png(n), "path": None} for n in range(60)]
    pq.write_table(pa.table({"image": images, "label": ["ab"[n % 2] for n in range(60)]}), "raw/encoded.parquet")
    saved = pa.table({"text": [text["text"] for text in texts], "label": [text["mood"] for text in texts]})
    (raw / "saved").mkdir()
    with pa.ipc.new_stream("raw/saved/data.arrow", saved.schema) as file:
        file.write_table(saved)
    (raw / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    np.save("raw/digits.npy", np.random.default_rng(0).integers(0, 255, (60, 6, 6), dtype=np.uint8))
    np.save("raw/digits_labels.npy", np.arange(60) % 2)
    for shard in range(2):
        with tarfile.open(raw / f"shard-{shard}.tar", "w") as archive:
            for n in range(30 * shard, 30 * shard + 30):
                for name, content in ((f"{n}.png", png(n)), (f"{n}.cls", b"cd"[n % 2 : n % 2 + 1])):
                    about = tarfile.TarInfo(name)
                    about.size = len(content)
                    archive.addfile(about, io.BytesIO(content))
        service.put(f"train-{shard}.tar", (raw / f"shard-{shard}.tar").read_bytes())
    (raw / "own.txt").write_text("".join(f"text {n}|{'ab'[n % 2]}\n" for n in range(60)))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_data.py").write_text(code)
    return tmp_path


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the example leaves its file to Python
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_example_is_prepared(project: Path):
    for number, settings in enumerate(EXAMPLES):
        done = prepare(parse(PrepareSettings, settings, "dataset"), project / f"data-{number}")
        several = "part-" in str(settings["source"].get("path"))
        more = 20 if "unlabelled" in settings else 0
        assert (done.rows, sum(done.dropped.values())) == (120 if several else 60 + more, 0), settings
        data = Dataset.open(project / f"data-{number}")
        assert data.task.name == TASKS.get(str(settings["source"].get("label_column")), "classification")
        assert len(data.split(0).test) == (18 if several else 12)


def test_every_source_has_an_example():
    from pipeline.plugins import plugins

    shown = {settings["source"]["family"] for settings in EXAMPLES}
    assert set(plugins("datasets")) - shown == {"digits", "mnist", "tweets"}
