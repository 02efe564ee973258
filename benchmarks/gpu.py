"""`make gpu-check`: the tests that need a GPU, and what training reaches on one, in at most eight minutes.

    python -m benchmarks.gpu [--output FOLDER] [--no-tests] [--dry]

writes to FOLDER, `gpu-check` by default:

    machine.json    the GPU and the versions
    training.json   ViT-S/16 and ResNet-50 at 224 pixels, batches of 128, bfloat16, compiled: pictures a second; the
                    time of a step with AFT over that without, at most 1.03; the time of one with pictures and teachers'
                    features read from the disk over one with both on the GPU; the share of the time in which the GPU
                    computes, and its kernels in a step
    graphs.json     the first three of these figures, but for the disk, with `compile: cuda_graphs`; or why it failed
    profile-*.txt   what the steps with AFT of these models spend their time on, on the GPU and on the CPU
    small.json      steps a second of a small CNN of 32 pixels, plain and with AFT: as it is, compiled, with CUDA graphs
    rows.json       rows of features a second that arrive on the GPU: kept there, and read from the store and copied,
                    beside copies of the same bytes that are there already, which is the limit
    extract.json    `benchmarks.extract`: extraction of texts, images and photographs over the bare forward loop
    store.json      `benchmarks.store --quick`: the feature store against what else there is
    tests.txt       what the tests of training, students, methods, views and extraction say with a GPU

Each is written as soon as it is there; the tests come last, and end when the time is up. Without a GPU it says so in a
line and ends; `--dry` runs all of it on the CPU, with tiny models and a few steps, to see that it works.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.store import write_store
from benchmarks.train import make_project
from pipeline.machine import cores
from pipeline.params import Params
from pipeline.project import Project
from pipeline.runs import Candidate
from pipeline.store import Head
from pipeline.training.config import Plan
from pipeline.training.session import Session, gather, open_readers
from pipeline.training.trial import run_trial

MINUTES = 8.0
MODELS = {"vit_small_patch16_224": False, "resnet50": True}
"""And whether it has convolutions, for which the channels are last."""
DRY = {"test_vit": False, "test_resnet": True}
"""Models for a look at whether it works."""
OTHERS: dict[str, tuple[list[str], list[str]]] = {
    "extract": (["--texts", "8000", "--images", "1500"], ["--texts", "64", "--images", "120", "--rounds", "1"]),
    "store": (["--quick"], ["--quick"]),
}
"""Benchmarks in a process of their own, with their arguments, and those for a look at whether they work."""
ROOMS = ("extraction", "training", "students", "methods", "views")
TESTED = ["-p", "tests.on_gpu", *(f"tests/{room}" for room in ROOMS)]
DRY_TESTED = ["-m", "gpu", "tests/extraction", "tests/training"]


def seconds_a_step(session: Session, weight: float, warm: int, steps: int) -> float:
    """The time of a step of one trial, without what comes before and without lines of the log, but for the first."""
    training = run_trial(session, 0, Candidate((weight,)))
    for _ in range(1 + warm):
        next(training)
    _wait(session.device)
    began = time.perf_counter()
    for _ in range(steps):
        next(training)
    _wait(session.device)
    training.close()
    return (time.perf_counter() - began) / steps


def profiled(session: Session, weight: float, warm: int, output: Path) -> dict[str, float]:
    """The share of ten steps in which the GPU computes, and its kernels in a step; with a table of both processors."""
    training = run_trial(session, 0, Candidate((weight,)))
    for _ in range(1 + warm):
        next(training)
    _wait(session.device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        began = time.perf_counter()
        for _ in range(10):
            next(training)
        _wait(session.device)
        took = time.perf_counter() - began
    training.close()
    kernels = [event for event in found.events() if event.device_type == DeviceType.CUDA]
    averages = found.key_averages()
    tables = [averages.table(sort_by=key, row_limit=30) for key in ("self_device_time_total", "self_cpu_time_total")]
    output.write_text("\n".join(tables))
    busy = sum(event.self_device_time_total for event in kernels) / 1e6
    return {"gpu_busy": busy / took, "kernels_a_step": len(kernels) / 10, "profiled_step_ms": 100 * took}


def session_of(
    model: str, convolutions: bool, root: Path, params: Params, dry: bool, compiled: bool | str, memory: float = 2.0
) -> Session:
    """Plain training and AFT of one model, with so many GiB of pictures and features on the GPU."""
    values = dict(params.values)
    values["students"] = {"large": {"family": "timm", "model": model, "pretrained": False, "size": 64 if dry else 224}}
    values["train"] = {
        "seeds": [0],
        "steps": 20_000,  # a line of the log every 1,000
        "batch_size": 8 if dry else 128,
        "precision": "bfloat16",
        "compile": not dry and compiled,
        "channels_last": convolutions,
    }
    methods = {"aft": {"weight": [0.0, 3.0]}}
    values["runs"] = {"large": {"student": "large", "teachers": ["made_up"], "methods": methods}}
    values["machine"] = {"device": "cpu" if dry else "cuda", "device_memory": memory, "checkpoint_minutes": None}
    return Session(Plan.read("large", Params(values), Project(root / "pictures")))


def measure(
    model: str, convolutions: bool, root: Path, params: Params, dry: bool, output: Path
) -> dict[str, float | str]:
    """Figures of one model, compiled."""
    torch.compiler.reset()  # or shapes of the model before would have this one compiled for any shape
    warm, steps = (1, 2) if dry else (10, 100)
    resident, read = (session_of(model, convolutions, root, params, dry, True, memory) for memory in (2.0, 0.0))
    plain = seconds_a_step(resident, 0.0, warm, steps)
    aft = seconds_a_step(resident, 3.0, warm, steps)
    from_disk = seconds_a_step(read, 3.0, warm, steps)
    return {
        "model": model,
        "pictures_a_second": (8 if dry else 128) / plain,
        "step_with_aft_over_step_without": aft / plain,
        "from_disk_over_on_the_gpu": from_disk / aft,
        **profiled(resident, 3.0, warm, output / f"profile-{model}.txt"),
    }


def with_cuda_graphs(
    model: str, convolutions: bool, root: Path, params: Params, dry: bool, output: Path
) -> dict[str, float | str]:
    """The same with CUDA graphs, or why it failed: what comes after it is measured in any case."""
    torch.compiler.reset()
    warm, steps = (1, 2) if dry else (10, 100)
    try:
        session = session_of(model, convolutions, root, params, dry, "cuda_graphs")
        plain = seconds_a_step(session, 0.0, warm, steps)
        aft = seconds_a_step(session, 3.0, warm, steps)
        return {
            "model": model,
            "pictures_a_second": (8 if dry else 128) / plain,
            "step_with_aft_over_step_without": aft / plain,
            **profiled(session, 3.0, warm, output / f"profile-graphs-{model}.txt"),
        }
    except Exception as error:
        return {"model": model, "failed": _line(error)}


def small(root: Path, params: Params, dry: bool) -> dict[str, float | str]:
    """Steps a second of a student that is too small to fill a GPU: the time that starting its kernels takes."""
    values, steps = dict(params.values), 2 if dry else 300
    values["runs"] = {"cnn": {**params.values["runs"]["cnn_aft"], "methods": {"aft": {"weight": [0.0, 3.0]}}}}
    values["machine"] = {"device": "cpu" if dry else "cuda", "checkpoint_minutes": None}
    found: dict[str, float | str] = {}
    ways: dict[str, bool | str] = {"": False, ", compiled": True, ", CUDA graphs": "cuda_graphs"}
    for how, compiled in list(ways.items())[: 1 if dry else None]:
        torch.compiler.reset()
        train = {"seeds": [0], "steps": 20_000, "batch_size": 128, "compile": compiled}
        values["runs"]["cnn"]["train"] = {}
        try:
            session = Session(Plan.read("cnn", Params(values | {"train": train}), Project(root / "pictures")))
            for name, weight in (("plain", 0.0), ("aft", 3.0)):
                found[name + how] = 1 / seconds_a_step(session, weight, 10, steps)
        except Exception as error:
            found[f"failed{how}"] = _line(error)
    return found


def rows_to_the_device(root: Path, dry: bool) -> dict[str, float]:
    """Rows of 1,024 numbers in float16 a second, 256 at a time in random order, that arrive on the device."""
    device, rows, turns = torch.device("cpu" if dry else "cuda"), 2_000 if dry else 200_000, 7
    store = write_store(root / "rows.zarr", rows, Head((1024,), "float16"))
    resident, read = open_readers([(store, "pooled")], device, 10**10) + open_readers([(store, "pooled")], device, 0)
    random = np.random.default_rng(0)
    batches = [random.choice(rows, 256, replace=False) for _ in range(10 if dry else 500)]
    there = torch.empty((256, 1024), dtype=torch.float16, pin_memory=not dry)
    kinds: dict[str, Callable[[np.ndarray], object]] = {
        "kept_on_the_gpu": lambda batch: gather(resident, batch, device),
        "read_and_copied": lambda batch: gather(read, batch, device),
        "copied_alone": lambda _: there.to(device, non_blocking=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(turns + 1):  # the first sets things up
        for name, step in kinds.items():
            _wait(device)
            began = time.perf_counter()
            for batch in batches:
                step(batch)
            _wait(device)
            if turn:
                rates[name].append(256 * len(batches) / (time.perf_counter() - began))
    return {name: round(median(found)) for name, found in rates.items()}


def other(name: str, arguments: list[str], output: Path, seconds: float) -> str:
    """Run another benchmark, and keep its figures; the line that says how it went."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *arguments]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        return "no time left for it"
    if ran.returncode:
        return f"ended with code {ran.returncode}: {ran.stderr.strip().splitlines()[-1:]}"
    figures = json.loads(ran.stdout.strip().splitlines()[-1])
    _write(output, figures)
    return json.dumps(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-check"), help="a folder")
    parser.add_argument("--dry", action="store_true", help="on the CPU, with tiny models")
    parser.add_argument("--no-tests", dest="tests", action="store_false", help="figures alone")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        print("gpu-check: torch finds no GPU here: nothing was measured (--dry tries the script on the CPU)")
        return
    began, out = time.monotonic(), arguments.output
    out.mkdir(parents=True, exist_ok=True)
    device = "cpu" if arguments.dry else torch.cuda.get_device_name()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
    _write(out / "machine.json", {"device": device, "date": time.strftime("%Y-%m-%d", time.gmtime()), **versions})
    with tempfile.TemporaryDirectory() as folder:
        images, _ = make_project(Path(folder), 80 if arguments.dry else 600, 100, 256, short=True)
        for file, one in (("training", measure), ("graphs", with_cuda_graphs)):
            found: list[dict[str, Any]] = []
            for model, convolutions in (DRY if arguments.dry else MODELS).items():
                if time.monotonic() - began > 60 * MINUTES - 150:
                    print(f"gpu-check: no time left for {file} of {model}")
                    break
                found.append(one(model, convolutions, Path(folder), images, arguments.dry, out))
                _write(out / f"{file}.json", found)
                print(f"gpu-check: {file}: {json.dumps(found[-1])}")
        figures: Any
        for file, figures in (
            ("small", small(Path(folder), images, arguments.dry)),
            ("rows", rows_to_the_device(Path(folder), arguments.dry)),
        ):
            _write(out / f"{file}.json", figures)
            print(f"gpu-check: {file}: {json.dumps(figures)}")
    for name, arguments_of in OTHERS.items():
        left = 60 * MINUTES - (time.monotonic() - began)
        print(f"gpu-check: {name}: {other(name, arguments_of[arguments.dry], out / f'{name}.json', left)}")
    if arguments.tests:
        left = 60 * MINUTES - (time.monotonic() - began)
        code = _tests(out / "tests.txt", arguments.dry, left)
        print(f"gpu-check: tests ended with code {code}; see {out / 'tests.txt'}")
    print(f"gpu-check: {time.monotonic() - began:.0f} s; figures are in {out}/")


def _tests(output: Path, dry: bool, seconds: float) -> int:
    """The exit code of the tests; 124 where they took too long."""
    side_by_side = ["-n", str(cores())] if find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", *side_by_side, *(DRY_TESTED if dry else TESTED)]
    with output.open("w") as file:
        try:
            return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=max(1.0, seconds)).returncode
        except subprocess.TimeoutExpired:
            return 124


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
