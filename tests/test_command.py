import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = """
import os, sys, typer
from stages import command
app = typer.Typer()

@app.command()
def main() -> None:
    print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)

command.run(app)
"""


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_are_told_to_spin_briefly_before_torch_is_there(given: dict[str, str], spins: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    environment |= given | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    said = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [spins, "False"]
