"""`make gpu-check`: the tests that need a GPU, and what training reaches on one, in at most eight minutes.

    python -m benchmarks.gpu [--output FOLDER] [--dry]

writes to FOLDER, `gpu-check` by default:

    machine.json    the GPU and the versions
    tests.txt       what `pytest -m gpu` said
    training.json   ViT-S/16 and ResNet-50 at 224 pixels, batches of 128, bfloat16, compiled: pictures a second; the
                    time of a step with AFT over that without, at most 1.03; and the time of one with teachers' features
                    read from the disk over one with features on the GPU
    extract.json    `benchmarks.extract`: extraction of texts, images and photographs over the bare forward loop
    store.json      `benchmarks.store --quick`: the feature store against what else there is

Each is written as soon as it is there. Without a GPU it says so in a line and ends; `--dry` runs all of it on the CPU,
with tiny models and a few steps, to see that it works.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch

from benchmarks.train import make_project
from pipeline.params import Params
from pipeline.project import Project
from pipeline.runs import Candidate
from pipeline.training.config import Plan
from pipeline.training.session import Session
from pipeline.training.trial import run_trial

MINUTES = 8.0
MODELS = {"vit_small_patch16_224": False, "resnet50": True}
"""And whether it has convolutions, for which the channels are last."""
DRY = {"test_vit": False, "test_resnet": True}
"""Models for a look at whether it works."""
OTHERS: dict[str, tuple[list[str], list[str]]] = {
    "extract": ([], ["--texts", "64", "--images", "120", "--rounds", "1"]),
    "store": (["--quick"], ["--quick"]),
}
"""Benchmarks in a process of their own, with their arguments, and those for a look at whether they work."""
TESTS = 120.0
"""Seconds that the tests may take."""


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


def measure(model: str, convolutions: bool, root: Path, params: Params, dry: bool) -> dict[str, float | str]:
    """Figures of one model."""
    batch, warm, steps = (8, 1, 2) if dry else (128, 10, 40)
    values = dict(params.values)
    values["students"] = {"large": {"family": "timm", "model": model, "pretrained": False, "size": 64 if dry else 224}}
    values["train"] = {
        "seeds": [0],
        "steps": 20_000,  # a line of the log every 1,000
        "batch_size": batch,
        "precision": "bfloat16",
        "compile": not dry,
        "channels_last": convolutions,
    }
    methods = {"aft": {"weight": [0.0, 3.0]}}
    values["runs"] = {"large": {"student": "large", "teachers": ["made_up"], "methods": methods}}

    def session(memory: float) -> Session:
        values["machine"] = {"device": "cpu" if dry else "cuda", "device_memory": memory, "checkpoint_minutes": None}
        return Session(Plan.read("large", Params(values), Project(root / "pictures")))

    resident, read = session(2.0), session(0.0)
    plain = seconds_a_step(resident, 0.0, warm, steps)
    aft = seconds_a_step(resident, 3.0, warm, steps)
    from_disk = seconds_a_step(read, 3.0, warm, steps)
    return {
        "model": model,
        "pictures_a_second": batch / plain,
        "step_with_aft_over_step_without": aft / plain,
        "features_from_disk_over_on_the_gpu": from_disk / aft,
    }


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
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        print("gpu-check: torch finds no GPU here: nothing was measured (--dry tries the script on the CPU)")
        return
    began, out = time.monotonic(), arguments.output
    out.mkdir(parents=True, exist_ok=True)
    device = "cpu" if arguments.dry else torch.cuda.get_device_name()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
    _write(out / "machine.json", {"device": device, "date": time.strftime("%Y-%m-%d", time.gmtime()), **versions})
    with (out / "tests.txt").open("w") as file:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/extraction", "tests/training"]
        try:
            tests = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=TESTS).returncode
        except subprocess.TimeoutExpired:
            tests = 124
    print(f"gpu-check: tests ended with code {tests}; see {out / 'tests.txt'}")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        images, _ = make_project(Path(folder), 80 if arguments.dry else 600, 100, 256, short=True)
        for model, convolutions in (DRY if arguments.dry else MODELS).items():
            if time.monotonic() - began > 60 * MINUTES - 150:
                print(f"gpu-check: no time left for {model}")
                break
            found.append(measure(model, convolutions, Path(folder), images, arguments.dry))
            _write(out / "training.json", found)
            print(f"gpu-check: {json.dumps(found[-1])}")
    for name, arguments_of in OTHERS.items():
        left = 60 * MINUTES - (time.monotonic() - began)
        print(f"gpu-check: {name}: {other(name, arguments_of[arguments.dry], out / f'{name}.json', left)}")
    print(f"gpu-check: {time.monotonic() - began:.0f} s; figures are in {out}/")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
