"""`aft predict` against the bare exported model: rows a second from a file to a file, and from memory to outputs.

    python -m benchmarks.predict FOLDER [TABLE_OR_IMAGES] [--rows N] [--json]

FOLDER is an export. The bare model is the shortest loop over it, in batches as large: texts in memory are made tokens
and run; of images, the encoded bytes in memory are decoded first. `aft predict` also reads the file, checks each row,
and writes ids, predictions and probabilities, and takes as many cores as torch has threads. The bare model of words has
one thread, with which it is faster than with two. The two take turns, and medians count: of rows a second, and of the
ratio of both in a turn, by the clock and by processor time of all threads and processes. By the clock, the ratio should
be at least 0.9. Other work on the machine moves the clock. With OMP_NUM_THREADS=1, `aft predict` has one process.
Without an input, one is made of random words or pictures.
"""

import argparse
import contextlib
import io
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from pipeline.predict import Predictor
from pipeline.serving import ImageInputs, TextInputs, predict_to

TURNS = 5


def texts(path: Path, rows: int) -> None:
    """Texts of 5 to 40 words, with the frequencies of a language."""
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, 20_001)
    words = np.array([f"w{n}" for n in range(20_000)])
    lengths = random.integers(5, 41, rows)
    drawn = words[random.choice(20_000, lengths.sum(), p=shares / shares.sum())]
    ends = np.cumsum(lengths)
    pq.write_table(pa.table({"text": [" ".join(drawn[e - n : e]) for e, n in zip(ends, lengths, strict=True)]}), path)


def pictures(folder: Path, rows: int) -> None:
    """JPEG pictures of 256 x 256 pixels."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for row in range(rows):
        small = random.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{row:05}.jpg")


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """What work takes by the clock, and in processor time of all threads and processes."""
    clock, processor = time.perf_counter(), processor_time()
    work()
    return time.perf_counter() - clock, processor_time() - processor


def processor_time() -> float:
    """Of all threads, and of other processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(predictor: Predictor, given: str, output: str) -> dict[str, Any]:
    """Rows a second and ratios of both, turn by turn."""

    def inputs() -> TextInputs | ImageInputs:
        if predictor.kind == "text":
            return TextInputs([given], predictor.table, [])
        return ImageInputs([given])

    contents: list[Any] = [content for block in inputs().blocks(512) for content in block.contents]
    if predictor.kind == "image":
        contents = [Path(content).read_bytes() for content in contents]

    threads = torch.get_num_threads()

    def bare() -> None:
        torch.set_num_threads(1 if predictor.in_python else threads)
        for start in range(0, len(contents), predictor.batch_size):
            batch = contents[start : start + predictor.batch_size]
            if predictor.kind != "text":
                batch = [predictor.read(row) for row in batch]
            predictor.outputs(predictor.encode(batch))

    def whole() -> None:
        torch.set_num_threads(threads)
        with contextlib.redirect_stderr(io.StringIO()):
            predict_to(predictor, inputs(), output)

    turns = np.array([(seconds(bare), seconds(whole)) for _ in range(TURNS)])  # [turns, 2, clock and processor]
    clock, processor = np.median(turns[:, 0] / turns[:, 1], axis=0)
    rates = len(contents) / np.median(turns[:, :, 0], axis=0)
    return {
        "rows": len(contents),
        "bare rows/s": float(rates[0]),
        "aft predict rows/s": float(rates[1]),
        "ratio by the clock": float(clock),
        "ratio of processor time": float(processor),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("given", nargs="?")
    parser.add_argument("--rows", type=int, help="made up; 100,000 texts or 20,000 pictures if left out")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    predictor = Predictor(options.folder, batch_size=options.batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(options.given or Path(scratch) / ("rows.parquet" if predictor.kind == "text" else "pictures"))
        if options.given is None:
            make, rows = (texts, 100_000) if predictor.kind == "text" else (pictures, 20_000)
            make(given, options.rows or rows)
        found = {
            suffix: measure(predictor, str(given), str(Path(scratch) / f"out.{suffix}"))
            for suffix in ("parquet", "csv")
        }
    if options.json:
        print(json.dumps(found))
        return
    for suffix, values in found.items():
        print(f"{suffix}: " + ", ".join(f"{name} {value:,.2f}" for name, value in values.items()))


if __name__ == "__main__":
    main()
