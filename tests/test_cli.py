"""The `aft` command as a user types it: in a process of its own where that is the point, in this one elsewhere."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from typer.testing import CliRunner

from pipeline import __version__
from pipeline.errors import UserError
from pipeline.params import NEEDED_BY_DVC, SECTIONS
from pipeline.plugins import plugins
from stages import features
from stages.app import app
from stages.overrides import READS

Aft = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "100"}


def process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)


def test_help_names_every_stage_in_order_and_does_not_wait_for_torch(tmp_path: Path):
    shown = process("--help", cwd=tmp_path).stdout
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    places = [shown.index(f"\n  {stage} ") for stage in ["check", "run", *stages]]
    assert places == sorted(places)
    code = "import sys, cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT).returncode == 0


def test_what_may_not_be_read_is_refused_by_what_reads_it_and_not_as_misuse():
    commands = [*app.registered_commands, *features.app.registered_commands]
    hints = [hint for c in commands if c.callback for hint in get_type_hints(c.callback, include_extras=True).values()]
    paths = [hint for hint in hints if "pathlib.Path" in str(hint)]
    assert len(paths) > 20 and not any(hint.__metadata__[0].readable for hint in paths)


@pytest.mark.parametrize("kind", ["methods", "teachers", "students", "datasets", "views"])
def test_list_shows_what_params_may_name(aft: Aft, kind: str):
    assert [line.split()[0] for line in aft("list", kind).stdout.splitlines()] == plugins(kind)
    assert sorted(json.loads(aft("list", kind, "--json").stdout)) == plugins(kind)


def test_the_stages_after_extraction_work_one_by_one(aft: Aft, project: Path):
    assert "joined 3 runs" in aft("join").stdout
    trained = aft("train", "aft", "--json", "-S", "train.steps=4", "-S", "train.seeds=[0, 1]")
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["trained"] == 4
    assert "to take its best student home: aft export aft --output FOLDER" in trained.stderr
    for run in ("none", "both"):
        assert aft("train", run, "-S", "train.steps=4", "-S", "train.seeds=[0, 1]").returncode == 0
    for run in ("none", "aft", "both"):
        evaluated = aft("evaluate", run, "--json")
        assert evaluated.returncode == 0, evaluated.stderr
        assert len(json.loads(evaluated.stdout)["results"]) == 2
    reported = aft("report")
    assert reported.returncode == 0, reported.stderr
    assert (project / "report" / "index.html").is_file()


def test_assess_says_which_teachers_to_use_in_words_and_as_one_object(aft: Aft, project: Path):
    said = aft("assess")
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0].startswith("assessed 3 subsets on 2 splits (")
    assert lines[1].startswith("Use ")
    assert 3 <= len(lines) <= 4
    assert said.stderr == ""
    found = json.loads(aft("assess", "--json").stdout)
    assert found["reasons"] == lines[1:]
    assert [subset["sources"] for subset in found["subsets"]] == [["wise"], ["loud"], ["wise", "loud"]]


def test_assess_draws_a_table_on_a_terminal(project: Path):
    shown, terminal = os.openpty()
    command = [sys.executable, "-m", "cli", "assess"]
    with open(terminal, "wb") as out:
        plain = ENVIRONMENT | {"TERM": "dumb"}  # no bold, so that the words stand alone
        assert subprocess.run(command, cwd=project, env=plain, stdout=out).returncode == 0
    text = os.read(shown, 1 << 16).decode()
    os.close(shown)
    table = [line.split() for line in text.splitlines()]
    assert ["sources", "probe", "kNN", "LogME", "width", "B/row", "test"] in table
    assert next(line[:3] for line in table if "+" in line) == ["wise", "+", "loud"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("assess", "-S", "assess.kernel_row=3"), "did you mean `kernel_rows`"),
        (("assess", "-S", "teachers.mute.family=timm"), "no section `teachers.mute`"),
        (("train", "atf"), "no section `runs.atf` (did you mean `aft`?)"),
        (("train", "aft", "-S", "train.step=3"), "unknown key `step`"),
        (("train", "aft", "-S", "train.learning_rate=1e-4"), "write 1.0e-4"),
        (("train", "aft", "--params", "no.yaml"), "no.yaml: no such file"),
        (("evaluate", "none"), "run `aft train none`"),
        (("probe", "wize"), "did you mean `wise`"),
        (("extract", "wise", "-S", "teachers.wise.model=models/none"), "models/none"),
        (("prepare", "-S", "dataset.source.path=raw/none.csv"), "raw/none.csv"),
        (("prepare", "-S", "dataset.source.text_column=review"), "review"),
        (("prepare", "-S", "dataset.classes=[good, bad]"), "plain"),
        (("report",), "none"),
        (("train",), "aft train: missing argument 'run'; see `aft train --help`"),
        (("trian",), "aft: no such command 'trian'. Did you mean"),
        (("train", "aft", "--sed"), "aft train: no such option: --sed"),
        (("train", "aft", "none"), "extra argument(s) (none); see `aft train --help`"),
        (("list", "method"), "aft list: invalid value for 'kind': 'method' is not one of 'tasks', "),
        (("features", "verify"), "see `aft features verify --help`"),
    ],
)
def test_what_the_user_can_fix_is_one_line_and_exit_code_2(
    aft: Aft, project: Path, arguments: tuple[str, ...], message: str
):
    before = {path: path.read_bytes() for path in (project / "data").iterdir()}
    done = aft(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert {path: path.read_bytes() for path in (project / "data").iterdir()} == before


def test_debug_keeps_the_traceback(project: Path):
    done = process("train", "atf", "--debug", cwd=project)
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_init_makes_a_project_and_never_overwrites_one(tmp_path: Path):
    assert process("init", "mine", "--params", "images", cwd=tmp_path).returncode == 0
    assert yaml.safe_load((tmp_path / "mine" / "params.yaml").read_text())["dataset"]["source"]["family"] == "mnist"
    assert (tmp_path / "mine" / "dvc.yaml").read_text() == (ROOT / "dvc.yaml").read_text()
    assert (tmp_path / "mine" / "raw" / "README.md").is_file()
    again = process("init", "mine", cwd=tmp_path)
    assert again.returncode == 2
    assert "already there" in again.stderr
    assert process("init", "other", "--params", "none.yaml", cwd=tmp_path).returncode == 2


def test_init_in_the_current_folder_keeps_the_files_of_its_own(tmp_path: Path):
    (tmp_path / ".gitignore").write_text("mine\n")
    said = process("init", ".", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "then run: aft run" in said.stdout
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


def test_what_the_pipeline_writes_is_kept_by_dvc_or_written_each_time():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = [out for stage in stages.values() for out in stage.get("do", stage)["outs"]]
    uncached = [
        next(iter(out)) for out in outs if isinstance(out, dict) and not next(iter(out.values())).get("cache", True)
    ]
    assert uncached == ["digests"]
    assert stages["code"]["always_changed"]


def test_the_sections_that_dvc_needs_are_those_of_dvc_yaml() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = [key for stage in stages.values() for key in stage.get("do", stage).get("params", ())]
    keys = [key for key in params if isinstance(key, str)]
    named = {stage["foreach"].strip("${}") for stage in stages.values() if "foreach" in stage}
    assert {*named, *(key.partition(".")[0] for key in keys)} - {"sweep"} == {*NEEDED_BY_DVC}


def test_a_command_reads_every_section_that_its_stage_depends_on() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in stages.keys() & READS:
        params = stages[name].get("do", stages[name])["params"]
        sections = {key.partition(".")[0] for key in params if isinstance(key, str)}
        assert sections <= {*READS[name]}, name


IGNORED = [(name, section) for name, read in READS.items() for section in SECTIONS if section not in (*read, "machine")]


@pytest.mark.parametrize(("name", "section"), IGNORED)
def test_an_override_that_the_command_would_ignore_is_refused(name: str, section: str) -> None:
    wanted = ["--output", "out"] if name == "export" else []
    needed = {"prepare": [], "assess": [], "join": [], "compare": ["one", "other"]}.get(name, ["any"])
    refused = CliRunner().invoke(app, [name, *needed, *wanted, "-S", "machine.device=cpu", "-S", f"{section}.x=1"])
    assert isinstance(refused.exception, UserError)
    assert str(refused.exception).startswith(f"-S {section}.x=1: `aft {name}` does not read `{section}`; pass it to `")
    readers = re.findall(r"`aft (\w+)`", str(refused.exception))[1:]
    assert readers and all(section in READS[reader] for reader in readers)


def test_a_stage_that_is_run_as_a_module_refuses_what_it_would_ignore(project: Path) -> None:
    command = [sys.executable, "-m", "stages.train", "aft", "-S", "dataset.labelled=30"]
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2 and "`aft train` does not read `dataset`" in done.stderr


def test_a_section_that_dvc_needs_is_named_where_it_is_left_out(aft: Aft, project: Path):
    (project / ".dvc").mkdir()
    (project / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    values = yaml.safe_load((project / "params.yaml").read_text())
    del values["extract"], values["probe"]
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    for command in ("check", "code", "run"):
        done = aft(command)
        assert done.returncode == 2, done.stdout
        assert done.stderr.endswith(
            "error: params.yaml: DVC needs the sections extract, probe, if only as `extract: {}`, `probe: {}`; add "
            "that, or use `aft run --direct`\n"
        )


def test_the_pipeline_reads_as_a_story_of_at_most_100_lines():
    text = (ROOT / "dvc.yaml").read_text()
    assert len(text.splitlines()) <= 100
    stages = yaml.safe_load(text)["stages"]
    assert all(stage.get("do", stage)["cmd"].startswith(f"aft {name}") for name, stage in stages.items())


def test_version_and_short_help(tmp_path: Path):
    assert process("--version", cwd=tmp_path).stdout == f"aft {__version__}\n"
    for arguments in ((), ("train",), ("features", "ls")):
        assert process(*arguments, "-h", cwd=tmp_path).stdout == process(*arguments, "--help", cwd=tmp_path).stdout
    assert "--install-completion" in process("-h", cwd=tmp_path).stdout
    assert process("-h", cwd=tmp_path).stdout.startswith("Usage: aft ")


def test_check_lists_every_problem_and_exits_with_code_2(aft: Aft, project: Path):
    said = aft("check")
    assert said.returncode == 0, said.stderr
    assert "run aft: 6 trials, 0 found, 6 to train" in said.stdout
    (project / "raw" / "reviews.csv").unlink()
    said = aft("check", "--json")
    assert said.returncode == 2
    assert said.stderr.startswith("error: raw/reviews.csv: no such file")
    assert json.loads(said.stdout)["problems"] == ["raw/reviews.csv: no such file; check dataset.source.path"]


def test_code_is_not_checked_again_where_nothing_changed(aft: Aft, project: Path):
    assert aft("code").returncode == 0
    before = (project / "digests" / "params.json").stat().st_mtime_ns
    assert aft("code").returncode == 0
    assert (project / "digests" / "params.json").stat().st_mtime_ns == before
    assert aft("code", "-S", "train.step=3").returncode == 2
    assert aft("code", "-S", "train.steps=3").returncode == 0
    assert (project / "digests" / "params.json").stat().st_mtime_ns != before


def test_trials_lists_what_no_run_uses_and_deletes_it_when_asked(aft: Aft, project: Path):
    assert aft("train", "none").returncode == 0
    (project / "trials" / "unused").mkdir()
    listed = aft("trials")
    assert listed.returncode == 0, listed.stderr
    assert "1 trial that no run of params.yaml uses" in listed.stdout
    assert (project / "trials" / "unused").exists()
    kept = len(list((project / "trials").glob("*/trial.json")))
    assert aft("trials", "--delete").returncode == 0
    assert not (project / "trials" / "unused").exists()
    assert len(list((project / "trials").glob("*/trial.json"))) == kept > 0
