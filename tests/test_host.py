"""The process of `aft run` does what DVC starts as its own process would; a script stands for DVC, and for a stage."""

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import host

ROOT = Path(__file__).parent.parent

CLIENT = """
import os, sys
from stages import host
code = host.ask()
print("alone" if code is None else "asked")
sys.exit(code or 0)
"""


@pytest.fixture
def repro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., int]:
    """Run a shell script in place of DVC; `$AFT` in it is a command that asks the host."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "client.py").write_text(CLIENT)

    def run(script: str, main: Callable[[], None]) -> int:
        aft = f"{shlex.quote(sys.executable)} {shlex.quote(str(tmp_path / 'client.py'))}"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "AFT": aft}
        # pytest's own standard output is no file that a stage's could be exchanged with.
        with capfd.disabled():
            return host.repro(["sh", "-c", f"exec >> shown 2>&1; {script}"], environment, main)

    return run


def served() -> None:
    print("served", os.getpid(), *sys.argv[1:], flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    sys.exit(3 if "fail" in sys.argv else 0)


def test_a_stage_runs_in_the_host_with_its_arguments_and_output(repro: Callable[..., int], tmp_path: Path):
    arguments = sys.argv
    assert repro("$AFT train none > out 2> err", served) == 0
    assert (tmp_path / "out").read_text() == f"served {os.getpid()} train none\nasked\n"
    assert (tmp_path / "err").read_text() == "to stderr\n"
    assert sys.argv is arguments


def test_dvc_gets_the_exit_code_of_each_stage(repro: Callable[..., int], tmp_path: Path):
    assert repro("$AFT fail; echo $? > one; $AFT good; echo $? > two; exit 7", served) == 7
    assert ((tmp_path / "one").read_text(), (tmp_path / "two").read_text()) == ("3\n", "0\n")


def test_an_error_that_nobody_expected_fails_its_stage_only(repro: Callable[..., int], tmp_path: Path):
    def main() -> None:
        if "bad" in sys.argv:
            raise RuntimeError("unexpected")

    assert repro("$AFT bad 2> err; echo $? > one; $AFT good; echo $? > two", main) == 0
    assert ((tmp_path / "one").read_text(), (tmp_path / "two").read_text()) == ("1\n", "0\n")
    assert "RuntimeError: unexpected" in (tmp_path / "err").read_text()


@pytest.mark.parametrize("script", ["cd sub && $AFT x > ../out", "OMP_NUM_THREADS=7 $AFT x > out"])
def test_another_folder_or_variable_gets_a_process_of_its_own(repro: Callable[..., int], tmp_path: Path, script: str):
    (tmp_path / "sub").mkdir()
    assert repro(script, served) == 0
    assert (tmp_path / "out").read_text() == "alone\n"


def test_a_variable_that_a_stage_sets_stays_in_that_stage(repro: Callable[..., int], tmp_path: Path):
    def main() -> None:
        print(os.environ.get("AFT_TEST_OF_HOST"), flush=True)
        os.environ["AFT_TEST_OF_HOST"] = "set"

    assert repro("$AFT one > out; $AFT two >> out", main) == 0
    assert (tmp_path / "out").read_text() == "None\nasked\nNone\nasked\n"
    assert "AFT_TEST_OF_HOST" not in os.environ


def test_what_dvc_sets_is_no_difference(repro: Callable[..., int], tmp_path: Path):
    assert repro("DVC_STAGE=train $AFT x > out", served) == 0
    assert (tmp_path / "out").read_text().endswith("asked\n")


def test_without_a_host_a_command_runs_by_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(host.ADDRESS, raising=False)
    assert host.ask() is None


def test_a_command_whose_host_was_killed_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """DVC outlives a killed `aft run`, and would do all the rest."""
    monkeypatch.setenv(host.ADDRESS, str(tmp_path / "gone"))
    assert host.ask() == 130


def test_a_stage_ends_with_the_command_that_asked_for_it_and_nothing_follows(repro: Callable[..., int], tmp_path: Path):
    runs = []

    def main() -> None:
        runs.append(sys.argv[1:])
        (tmp_path / "started").touch()
        time.sleep(86_400)

    script = (
        "$AFT one & client=$!; until [ -e started ]; do sleep 0.05; done; kill -9 $client; $AFT two; echo $? > second"
    )
    with pytest.raises(KeyboardInterrupt):
        repro(script, main)
    assert runs == [["one"]]
    assert (tmp_path / "second").read_text() == "130\n"
