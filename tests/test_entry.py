import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stages import entry

SHOW = """
import os, sys, typer
from stages import entry
app = typer.Typer()

@app.command()
def main() -> None:
    print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)

entry.run(app)
"""


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_are_set_to_spin_briefly_before_torch_is_imported(given: dict[str, str], spins: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    environment |= given | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    said = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [spins, "False"]


INTERRUPTED = """
import os, signal, typer
from stages import entry
app = typer.Typer()

@app.command()
def main(how: str) -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        if how == "error":
            raise ImportError("cannot import name") from None
        if how == "exit":
            raise SystemExit(1) from None
        if how == "raise":
            raise

entry.run(app, "aft")
"""


@pytest.mark.parametrize("how", ["error", "exit", "raise"])
def test_an_interrupt_that_became_another_error_is_an_interrupt(how: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    said = subprocess.run([sys.executable, "-c", INTERRUPTED, how], env=environment, capture_output=True, text=True)
    assert said.returncode == 130
    assert said.stderr.startswith("interrupted; ") and said.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("extract wise", "finished shards are kept, other results are as before; run `aft extract wise` to continue"),
        (
            "train aft -S 'train.seeds=[0, 1]' --no-verify",
            "finished trainings and the last checkpoints are kept, other results are as before; "
            "run `aft train aft -S 'train.seeds=[0, 1]' --no-verify` to continue",
        ),
        (
            "features import a.npy",
            "finished shards are kept, other results are as before; run `aft features import a.npy` to",
        ),
        ("features verify a.zarr", "results are as before; run `aft features verify a.zarr` again"),
        ("probe extract", "results are as before; run `aft probe extract` again"),
    ],
)
def test_after_an_interrupt_a_command_says_what_is_kept_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    def interrupted(prog_name: str, standalone_mode: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["aft", *shlex.split(line)])
    monkeypatch.setenv("AFT_NO_VERIFY", "")
    with pytest.raises(SystemExit) as end:
        entry.run(interrupted, "aft")
    assert end.value.code == 130
    assert f"interrupted; {message}" in capsys.readouterr().err


def test_a_command_that_ends_well_despite_an_interrupt_ends_well() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    said = subprocess.run([sys.executable, "-c", INTERRUPTED, "ignore"], env=environment, capture_output=True)
    assert said.returncode == 0 and not said.stderr


EARLY_OR_LATE = """
import atexit, os, signal, sys
import cli

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, name, path, target=None):
        if name == at:
            interrupt()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent that ignores it hands that down
sys.meta_path.insert(0, Finder())
atexit.register(interrupt)
at, sys.argv[1:] = sys.argv[1], ["list", "methods"]
cli.main()
"""


@pytest.mark.parametrize("imported", ["pipeline", "stages.entry", "typer", "pydantic", "stages.trials", "at the end"])
def test_an_interrupt_before_and_after_the_work_ends_a_command_without_a_word(imported: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", EARLY_OR_LATE, imported]
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert said.returncode == -signal.SIGINT  # 130 in a shell
    assert said.stderr == "" and ("aft_plus" in said.stdout) == (imported == "at the end")


OUT_OF_MEMORY = """
import sys, typer
from stages import entry
app = typer.Typer(pretty_exceptions_enable=False)

@app.command()
def main() -> None:
    bytes(1 << 60)

entry.run(app, "aft")
"""


@pytest.mark.parametrize("debug", [False, True])
def test_a_full_memory_is_one_line(debug: bool) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    options = ["--debug"] if debug else []
    said = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, *options], env=environment, capture_output=True, text=True
    )
    assert said.returncode == (1 if debug else 2)
    line = "error: not enough memory; close other programs, or lower machine.workers and the batch size\n"
    assert "Traceback" in said.stderr if debug else said.stderr == line


def too_large() -> Exception:
    """What torch raises on a CPU, for a petabyte."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    return raised.value


@pytest.mark.parametrize(
    "error", [lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), too_large]
)
def test_a_memory_that_is_full_for_torch_is_one_line(
    capsys: pytest.CaptureFixture[str], error: Callable[[], Exception]
) -> None:
    with pytest.raises(SystemExit) as end:
        entry._end(error(), debug=False)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: not enough memory; ")
