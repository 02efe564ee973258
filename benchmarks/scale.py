"""What each stage costs as rows grow: `python -m benchmarks.scale --folder DIR [--rows N] [--stage NAME] [--json]`.

A project of short texts for each number of rows, with features of width 64 from a file as its teacher, and every stage
of it as a user runs it, each in a process of its own. Measured from outside: the processor's seconds, and the peak of
the memory that is the stage's own, all of its processes together, without what imports take. Pages of mapped files are
not part of it: the system takes them back when it needs memory. Two sizes give bytes a row, and three an exponent of
time.

`python -m benchmarks.scale --folder DIR --rows N --engines` measures one extraction of texts instead, by one and two
processes that share a store, and by Ray with one and two workers, one thread each: rows a second between the first
shards and the last one, what Ray adds to a shard, and the time until a run that was killed half way writes again.

The number of labelled and validation rows stays the same; one row in ten is a test row. What was measured is kept in
the folder and not measured again, so a call that was stopped continues; `--again` measures it again.
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer

from stages import entry
from stages.app import app

STAGES = {
    "prepare": "prepare",
    "extract": "extract wide",
    "extract_texts": "extract small --params texts.yaml",
    "probe": "probe wide",
    "assess": "assess",
    "join": "join",
    "train": "train aft",
    "evaluate": "evaluate aft",
    "report": "report",
    "predict": "predict aft raw/rows.csv -o predicted.parquet",
    "verify": "features verify features/wide.zarr",
}
"""What is typed after `aft`, in the order of the pipeline."""

SLOW = ("extract_texts",)
"""Not measured unless it is named."""

ROWS = [10_000, 100_000, 1_000_000]
WIDTH = 64
WORDS = 1000
EVERY = 0.02
"""Seconds between two looks at the memory."""

PARAMS = """
dataset:
  source: {family: text_table, path: raw/rows.csv, id_column: id, label_column: label}
  task: classification
  no_label: []
  labelled: 2000
  val: 1000
  test: 0.1
teachers:
  wide: {family: features, path: raw/wide.npy, ids: raw/ids.txt}
students:
  bag: {family: bag_of_words}
extract: {}
probe: {}
assess: {}
machine: {}
train: {steps: 200, batch_size: 64, transfer_batch_size: 128, seeds: [0]}
runs:
  aft: {student: bag, teachers: [wide], methods: {aft: {weight: 10.0}}}
"""


SMALL = "teachers:\n  small: {family: transformers, model: raw/encoder, pooling: mean, max_length: 16}\n"
"""A teacher that reads the texts; in settings of its own, so that other stages do without it."""


def word(number: int) -> str:
    """One of a thousand words."""
    return (
        "".join("bcdfghjklm"[digit] + "aeiou"[digit // 2] for digit in divmod(number // 10, 10))
        + "nprstvwxyz"[number % 10]
    )


def make(folder: Path, rows: int) -> None:
    """A project of so many rows: texts of five words, all different, and features that tell their classes."""
    raw = folder / "raw"
    if (folder / "params.yaml").exists():
        return
    raw.mkdir(parents=True, exist_ok=True)
    words = [word(number) for number in range(WORDS)]
    random = np.random.default_rng(0)
    direction = random.standard_normal(WIDTH)
    with (
        (raw / "rows.csv").open("w") as table,
        (raw / "ids.txt").open("w") as ids,
        (raw / "wide.npy").open("wb") as features,
    ):
        table.write("id,text,label\n")
        np.lib.format.write_array_header_1_0(features, {"descr": "<f2", "fortran_order": False, "shape": (rows, WIDTH)})
        for start in range(0, rows, 65536):
            size = min(65536, rows - start)
            labels = random.integers(0, 2, size)
            values = random.standard_normal((size, WIDTH)) + np.outer(labels - 0.5, direction)
            features.write(values.astype(np.float16).tobytes())
            for row, label in enumerate(labels.tolist(), start):
                mixed = row * 387_420_489 % 10**12  # odd and not a multiple of 5, so all rows differ
                parts = [words[mixed // 1000**place % 1000] for place in range(4)]
                table.write(f"row-{row},{' '.join(parts)} {'good' if label else 'bad'},{label}\n")
                ids.write(f"row-{row}\n")
    encoder(raw / "encoder", [*words, "good", "bad"])
    (folder / "texts.yaml").write_text(PARAMS.replace("teachers:\n", SMALL))
    (folder / "params.yaml").write_text(PARAMS)


def encoder(folder: Path, words: Sequence[str]) -> None:
    """A transformer of one layer and random weights that knows these words."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=WIDTH, max_position_embeddings=16, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).eval().save_pretrained(folder)


def measure(arguments: Sequence[str], folder: Path, limit: int) -> dict[str, float]:
    """Run `aft ARGUMENTS` in a folder; its seconds, and its memory beyond that of the imports.

    It runs in a copy of this process, so that libraries are imported once for all stages.

    Args:
        arguments: of the command.
        folder: of the project.
        limit: bytes of memory at which it is stopped.

    Raises:
        RuntimeError: it failed, or reached the limit.
    """
    output = folder / "output.txt"
    sys.stdout.flush()
    start = time.perf_counter()
    if not (child := os.fork()):
        _stage(arguments, folder, output)
    first = peak = 0
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        held = memory(child)
        first, peak = first or held, max(peak, held)
        if peak > limit:
            os.killpg(child, signal.SIGKILL)
        time.sleep(EVERY)
    if os.waitstatus_to_exitcode(status):
        why = f"needs more than {limit >> 30} GiB" if peak > limit else output.read_text()[-2000:]
        raise RuntimeError(f"aft {' '.join(arguments)}: {why}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "own_bytes": peak - first,
        "resident_bytes": used.ru_maxrss * 1024,
    }


def _stage(arguments: Sequence[str], folder: Path, output: Path) -> NoReturn:
    """Be the command."""
    os.setsid()
    os.chdir(folder)
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ["AFT_CACHE"] = str(folder / "cache")
    sys.argv = ["aft", *arguments]
    code = 1
    try:
        entry.run(app, "aft")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # its process ends here, with code 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


WAYS = {
    "one process": [""],
    "two processes": ["--rank 0 --world 2", "--rank 1 --world 2"],
    "Ray, one worker": ["--engine ray --workers 1"],
    "Ray, two workers": ["--engine ray --workers 2"],
}
"""Ways to extract: what is typed, for each process, after `aft extract`."""

SHARDS = 32


def side_by_side(project: Path, rows: int) -> dict[str, Any]:
    """Rows a second by way, seconds until the first shard and until the first one after a kill; Ray's share of a shard.

    Args:
        project: with texts and a small teacher.
        rows: of it.
    """
    found: dict[str, Any] = {}
    for way, options in WAYS.items():
        shutil.rmtree(project / "features" / "small.zarr", ignore_errors=True)
        seconds = [_extract(project, rows, options, stop_at) for stop_at in (SHARDS // 2, SHARDS)]
        began = len(options) if len(options) > 1 else int(options[0][-1:] or 1)
        each = (seconds[0][-1] - seconds[0][began - 1]) / (len(seconds[0]) - began)
        found[way] = {
            "rows_per_second": rows / SHARDS / each,
            "shard_seconds": each,
            "seconds_to_begin": seconds[0][0],
            "seconds_to_resume": next(at for at in seconds[1] if at > 0),
        }
        line = ", ".join(f"{name} {value:,.2f}" for name, value in found[way].items())
        print(f"{way}: {line}", flush=True)
    found["ray_seconds_a_shard"] = found["Ray, one worker"]["shard_seconds"] - found["one process"]["shard_seconds"]
    print(f"Ray adds {found['ray_seconds_a_shard'] * 1000:,.0f} ms to a shard", flush=True)
    return found


def _extract(project: Path, rows: int, options: Sequence[str], shards: int) -> list[float]:
    """Extract until so many shards are there, then kill; seconds from the start to each, in order."""
    began = time.time()
    line = f"extract small --params texts.yaml -S extract.shard_rows={-(-rows // SHARDS)}"
    running = [_run(f"{line} {option}", project) for option in options]
    marks = project / "features" / "small.zarr" / "pooled"
    while len(list(marks.glob("c.*.json"))) < shards and any(each.poll() is None for each in running):
        time.sleep(EVERY)
    started = [process for each in running for process in family(each.pid)]
    for each in running:
        if shards < SHARDS and each.poll() is None:
            os.killpg(each.pid, signal.SIGKILL)
        if each.wait() and shards == SHARDS:
            raise RuntimeError((project / "output.txt").read_text()[-2000:])
    while any(map(runs, started)):  # Ray's workers finish what they are at
        time.sleep(EVERY)
    return sorted(mark.stat().st_mtime - began for mark in marks.glob("c.*.json"))


def _run(arguments: str, project: Path) -> subprocess.Popen[bytes]:
    """`aft ARGUMENTS` in a process of its own with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    with (project / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments.split()],
            cwd=project, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def memory(process: int) -> int:
    """Bytes that a process and those that it started hold besides mapped files."""
    try:
        lines = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    except OSError:  # it has ended meanwhile
        return 0
    return sum(map(int, lines)) * 1024 + sum(map(memory, children(process)))


def children(process: int) -> list[int]:
    """The processes that one has started."""
    try:
        texts = [path.read_text() for path in Path(f"/proc/{process}").glob("task/*/children")]
    except OSError:  # it has ended meanwhile
        return []
    return list(map(int, " ".join(texts).split()))


def family(process: int) -> list[int]:
    """A process, those that it has started, and so on."""
    return [process, *(each for child in children(process) for each in family(child))]


def runs(process: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def table(found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """One line a stage and size, with what has grown since the size before.

    - `bytes_a_row`: memory.
    - `exponent`: k, where the processor's seconds grow like rows to the power of k; 1 is linear. What a stage takes
      whatever the rows, such as imports, is taken off, so it needs a third and smaller size.
    """
    lines = []
    for stage, sizes in found.items():
        of = sorted(sizes.items())
        for number, (rows, figures) in enumerate(of):
            line: dict[str, Any] = {"stage": stage, "rows": rows, **figures, "bytes_a_row": None, "exponent": None}
            if number > 0:
                before, less = of[number - 1]
                line["bytes_a_row"] = (figures["own_bytes"] - less["own_bytes"]) / (rows - before)
            if number > 1:
                first, least = of[0]
                grown = [each["cpu_seconds"] - least["cpu_seconds"] for each in (less, figures)]
                if min(grown) > 0:
                    line["exponent"] = math.log(grown[1] / grown[0]) / math.log((rows - first) / (before - first))
            lines.append(line)
    return lines


def main(
    folder: Annotated[Path, typer.Option(help="Where projects and results are kept.")],
    rows: Annotated[list[int] | None, typer.Option(help="A number of rows; repeatable.")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="A stage; repeatable. All but extract_texts if none.")] = None,
    engines: Annotated[bool, typer.Option("--engines", help="Measure processes side by side, and Ray.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure again what was measured.")] = False,
    limit: Annotated[int, typer.Option(help="GiB of memory at which a stage is stopped.")] = 6,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON on the last line.")] = False,
) -> None:
    """Measure every stage at every size, the smallest first."""
    for name in ("torch", "sklearn.linear_model", "scipy.optimize", "transformers", "pipeline.checks"):
        import_module(name)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if engines:
        for size in sorted(rows or ROWS[1:2]):
            make(folder / str(size), size)
            _run("prepare", folder / str(size)).wait()
            measured = {"rows": size, "ways": side_by_side(folder / str(size), size)}
            if as_json:
                print(json.dumps(measured))
        return
    kept = folder / "figures.json"
    figures: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    stages = stage or [name for name in STAGES if name not in SLOW]
    for size in sorted(rows or ROWS):
        project = folder / str(size)
        make(project, size)
        for name in stages:
            of = figures.setdefault(name, {})
            if str(size) in of and not again:
                continue
            print(f"{name}, {size:,} rows", file=sys.stderr, flush=True)
            of[str(size)] = measure(STAGES[name].split(), project, limit << 30)
            kept.write_text(json.dumps(figures, indent=1))
    found = table({name: {int(size): each for size, each in sizes.items()} for name, sizes in figures.items()})
    print(f"{'stage':<14}{'rows':>12}{'s':>9}{'CPU s':>9}{'own MB':>9}{'B a row':>9}{'exponent':>10}")
    for line in found:
        per_row = "" if line["bytes_a_row"] is None else f"{line['bytes_a_row']:,.0f}"
        exponent = "" if line["exponent"] is None else f"{line['exponent']:.2f}"
        print(
            f"{line['stage']:<14}{line['rows']:>12,}{line['seconds']:>9.1f}{line['cpu_seconds']:>9.1f}"
            f"{line['own_bytes'] / 1e6:>9,.0f}{per_row:>9}{exponent:>10}"
        )
    if as_json:
        print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
