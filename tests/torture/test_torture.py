"""A few rounds of `make torture`, the same each time; the long run is `make torture` itself."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_a_few_rounds(tmp_path: Path):
    command = [sys.executable, "-m", "tests.torture", "--folder", str(tmp_path), "--minutes", "0.5", "--rounds", "10"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 0: " in done.stdout
