"""Commands that are ended from outside: nothing of theirs is left, Ctrl-C says how to go on, and a rerun completes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.commands import aft
from tests.finished import COMMANDS, contents, remove
from tests.running import LONG, nobody_left, session

ROOT = Path(__file__).parent.parent

STEPS = 1_000_000
"""So many that no training ends by itself."""


def end(line: str, project: Path, number: int, begun: str, processes: int = 1) -> tuple[int, str]:
    """Start a command, and send a signal once it has said that it has begun, and has so many processes.

    Returns:
        Its exit code, and what it printed to stderr. No process of its session is left.
    """
    said = project.with_name("said")
    with said.open("w") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "cli", *line.split()],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
            # A parent that ignores a signal, as `nohup` does, would hand that down.
            preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)],
        )
    try:
        deadline = time.monotonic() + LONG
        while begun not in said.read_text() or len(session(running.pid)) < processes:
            assert running.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.05)
        # A terminal sends Ctrl-C to all processes; the others are for the command alone.
        (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
        running.wait(LONG)
        nobody_left(running.pid)
    finally:
        for pid in session(running.pid):
            os.kill(pid, signal.SIGKILL)
    return running.returncode, said.read_text()


def goes_on(line: str, project: Path, finished: Path) -> None:
    """Run the command as it was in the finished project; everything is then as it is there."""
    ended = aft(line, project)
    assert ended.code == 0, ended.errors
    assert contents(project) == contents(finished)


def test_after_ctrl_c_a_command_says_how_to_continue(finished: Path):
    project = Path(shutil.copytree(finished, finished.with_name("interrupted")))
    remove(project, "train aft")
    code, said = end(f"train aft -S train.steps={STEPS}", project, signal.SIGINT, "1 to train")
    assert code == 130 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted; ") and "run `aft train aft " in said.splitlines()[-1]
    goes_on("train aft", project, finished)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("line", ["train aft", "run --direct"])
def test_worker_processes_end_with_their_command(finished: Path, line: str, number: int):
    project = Path(shutil.copytree(finished, finished.with_name("ended")))
    remove(project, line)
    endless = f"{line} -S train.steps={STEPS} -S train.seeds=[0,1] -S machine.workers=2"
    code, said = end(endless, project, number, "2 to train", 4)
    assert code == (130 if number == signal.SIGINT else -number), said
    assert "Traceback" not in said
    for leftover in (project / "runs").glob("*"):
        shutil.rmtree(leftover) if line.startswith("run") else None
    goes_on(line, project, finished)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_dvc_and_what_it_started_end_with_aft_run(finished: Path, number: int):
    project = Path(shutil.copytree(finished, finished.with_name("repository")))
    shutil.rmtree(project / "new")
    shutil.copyfile(ROOT / "dvc.yaml", project / "dvc.yaml")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=project, check=True)
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["train"] |= {"steps": STEPS, "seeds": [0, 1]}
    values["machine"]["workers"] = 2
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    code, said = end("run", project, number, "2 to train", 6)
    assert code == (130 if number == signal.SIGINT else -number), said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_extraction_continues(finished: Path, number: int):
    project = Path(shutil.copytree(finished, finished.with_name("extraction")))
    remove(project, "extract wise")
    code, said = end("extract wise -S extract.batch_size=1", project, number, "120 texts")
    assert code in (0, 130 if number == signal.SIGINT else -number) and "Traceback" not in said, said
    goes_on("extract wise -S extract.batch_size=1", project, project)


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith("init")])
def test_two_of_a_command_at_once_leave_what_one_leaves(finished: Path, line: str):
    project = Path(shutil.copytree(finished, finished.with_name("twice")))
    remove(project, line)
    command, environment = [sys.executable, "-m", "cli", *line.split()], os.environ | {"PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    said = [process.communicate()[1].decode() for process in both]
    assert sorted(process.returncode for process in both) in ([0, 0], [0, 2]), said
    assert "Traceback" not in "".join(said)
    goes_on(line, project, finished)


@pytest.mark.slow
def test_what_gc_deletes_nobody_writes_or_reads(finished: Path):
    project = Path(shutil.copytree(finished, finished.with_name("tidied")))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    lines = ("extract wise", "probe wise", "features import exported.npy --store features/imported.zarr")
    for line in lines:
        remove(project, line)
        command = [sys.executable, "-m", "cli", *line.split()]
        with subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE) as running:
            while running.poll() is None:
                assert aft("features gc --delete", project).code == 0
            assert running.stderr is not None and running.returncode == 0, running.stderr.read().decode()
    assert contents(project) == contents(finished)
