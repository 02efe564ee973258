"""What users of DVC rely on, with real `dvc repro` on a small project: what runs again after which change, what a kill
leaves, clones elsewhere, experiments, and the same bytes for the same inputs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.records import LogRecord

from .conftest import PARAMS, WORDS, write_encoder, write_table
from .waiting import wait_until

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "A User",
    "GIT_AUTHOR_EMAIL": "user@example.org",
    "GIT_COMMITTER_NAME": "A User",
    "GIT_COMMITTER_EMAIL": "user@example.org",
}
RUNS = {
    "none": {"student": "bag"},
    "aft": {"student": "bag", "teachers": ["wise"], "methods": {"aft": {"weight": [0.0, 3.0]}}},
    "both": {"student": "bag", "teachers": ["wise", "loud"], "methods": {"kd": {"weight": 1.0}}},
}
OUTPUTS = ("assessments", "bundles", "data", "evaluations", "features", "probes", "report", "runs", "trials")


def call(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True)


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = call(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def stages(output: str) -> list[str]:
    """The stages that a `dvc repro` ran, in order, but for the one that always runs, which comes first."""
    ran = re.findall(r"Running stage '(\S+)'", output)
    assert ran[0] == "code"
    return ran[1:]


def repro(project: Path, *targets: str, **environment: str) -> list[str]:
    return stages(run("dvc", "repro", *targets, cwd=project, **environment))


def change(project: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text())
    edit(values)
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def contents(project: Path, *names: str) -> dict[str, bytes]:
    """The bytes of all files in folders of a project."""
    files = [path for name in names for path in (project / name).rglob("*") if path.is_file()]
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in files}


def start(folder: Path, **params: Any) -> Path:
    """A project made by `aft init`, with a table of text and two small encoders for teachers."""
    run("aft", "init", str(folder), cwd=folder.parent)
    write_table(folder / "raw" / "reviews.csv")
    for name, width in (("wise", 16), ("loud", 8)):
        write_encoder(folder / "models" / name, WORDS, width, layers=1)
    teachers = {name: {"family": "transformers", "model": f"models/{name}"} for name in ("wise", "loud")}
    train = PARAMS["train"] | {"steps": 5, "seeds": [0, 1]}
    values = PARAMS | {"teachers": teachers, "train": train, "runs": RUNS} | params
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in git, all of its stages run by `aft run`, one process for all, and committed."""
    folder: Path = tmp_path_factory.mktemp("dvc") / "project"
    folder.mkdir()
    run("git", "init", "--quiet", cwd=folder)
    start(folder)
    assert sorted(stages(run("aft", "run", cwd=folder))) == sorted(
        [
            *("prepare", "extract@wise", "extract@loud", "probe@wise", "probe@loud", "assess", "join"),
            *("train@none", "train@aft", "train@both", "evaluate@none", "evaluate@aft", "evaluate@both", "report"),
        ]
    )
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--message", "Start", cwd=folder)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project, somewhere else."""
    return Path(shutil.copytree(finished, tmp_path / "elsewhere" / "copy", symlinks=True))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the library, as another installation has it; it is used with PYTHONPATH."""
    root = tmp_path / "other installation"
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", root)
    return root


def edit(library: Path, file: str) -> None:
    path = library / "pipeline" / file
    path.write_text(path.read_text() + "\n")


def test_a_second_repro_runs_nothing_and_its_metrics_can_be_shown(project: Path):
    assert repro(project) == []
    shown = run("dvc", "metrics", "show", cwd=project)
    assert "aft" in shown
    assert "none" in shown
    assert "index.html" in run("dvc", "plots", "show", cwd=project)
    assert run("git", "status", "--porcelain", cwd=project).split() == ["??", "dvc_plots/"]


def test_a_new_run_trains_that_run_only_and_a_dry_run_says_so(project: Path):
    def add(values: dict[str, Any]) -> None:
        method = {"aft": {"weight": [1.0], "task_directions": True}}
        values["runs"]["more"] = {"student": "bag", "teachers": ["loud"], "methods": method}

    change(project, add)
    expected = ["join", "train@more", "evaluate@more", "report"]
    assert stages(run("dvc", "repro", "--dry", cwd=project)) == expected
    assert repro(project) == expected


def test_a_changed_weight_trains_that_run_only_and_extracts_nothing(project: Path):
    change(project, lambda values: values["runs"]["aft"]["methods"]["aft"].update(weight=[0.0, 5.0]))
    assert repro(project) == ["join", "train@aft", "evaluate@aft", "report"]


def test_a_new_teacher_is_extracted_alone_and_no_run_that_does_not_use_it_is_trained(project: Path):
    write_encoder(project / "models" / "third", WORDS, 12, layers=1)
    change(project, lambda v: v["teachers"].update(third={"family": "transformers", "model": "models/third"}))
    expected = ["extract@third", "probe@third", "assess", "join", "report"]
    assert stages(run("dvc", "repro", "--dry", cwd=project)) == expected
    assert repro(project) == expected


def test_a_changed_teacher_trains_just_the_runs_that_use_it(project: Path):
    change(project, lambda values: values["teachers"]["loud"].update(pooling="cls"))
    ran = repro(project)
    assert ran == ["extract@loud", "probe@loud", "assess", "join", "train@both", "evaluate@both", "report"]


def test_other_labels_and_splits_extract_nothing(project: Path):
    change(project, lambda values: values["dataset"].update(labelled=24))
    assert repro(project, "probe@wise") == ["prepare", "probe@wise"]


def test_a_mistake_in_params_is_one_line_before_anything_runs_and_leaves_what_was_there(project: Path):
    before = contents(project, *OUTPUTS, "logs")
    # The first stage would have to run again; the mistake is in the last.
    change(project, lambda values: values["dataset"].update(labelled=24))
    change(project, lambda values: values["runs"]["both"]["methods"]["kd"].update(gats="sigmoid"))
    done = call("dvc", "repro", cwd=project)
    assert done.returncode != 0
    assert stages(done.stdout) == []
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "runs.both.methods.kd: unknown key `gats`" in line
    assert "Traceback" not in done.stderr
    assert contents(project, *OUTPUTS, "logs") == before


@pytest.mark.slow
def test_an_edited_method_trains_just_the_runs_that_use_it_also_one_added_after_init(project: Path, library: Path):
    shutil.copy(library / "pipeline" / "methods" / "kd.py", library / "pipeline" / "methods" / "mine.py")
    mine = {"student": "bag", "teachers": ["loud"], "methods": {"mine": {"weight": 1.0}}}
    change(project, lambda values: values["runs"].update(mine=mine))
    place = {"PYTHONPATH": str(library)}
    assert repro(project, **place) == ["join", "train@mine", "evaluate@mine", "report"]
    edit(library, "methods/mine.py")
    assert repro(project, **place) == ["join", "train@mine", "evaluate@mine", "report"]
    edit(library, "functional/logme.py")
    assert repro(project, **place) == ["assess", "report"]


def test_finished_trainings_are_found_when_a_run_is_trained_again(project: Path):
    """DVC deletes the outputs of a stage before it runs. What the ledger holds is no output."""
    before = contents(project, "runs", "trials")
    output = run("dvc", "repro", "--force", "--single-item", "train@aft", cwd=project)
    assert "4 trials, 4 found, 0 to train" in output
    assert contents(project, "runs", "trials") == before


def test_a_clone_elsewhere_with_another_installation_runs_nothing_again(project: Path, library: Path, tmp_path: Path):
    run("dvc", "remote", "add", "--quiet", "--default", "there", str(tmp_path / "remote"), cwd=project)
    run("dvc", "push", "--quiet", "--no-run-cache", cwd=project)
    run("git", "commit", "--quiet", "--all", "--message", "Remote", cwd=project)
    run("git", "clone", "--quiet", str(project), str(tmp_path / "clone"), cwd=tmp_path)
    expected = contents(project, *(name for name in OUTPUTS if name != "trials"), "logs")
    project.rename(project.with_name("gone"))
    clone, place = tmp_path / "clone", {"PYTHONPATH": str(library)}
    run("dvc", "pull", cwd=clone, **place)
    assert contents(clone, *OUTPUTS, "logs") == expected
    assert repro(clone, **place) == []
    assert run("git", "status", "--porcelain", cwd=clone) == ""


@pytest.mark.slow
def test_a_clone_in_an_environment_with_the_wheel_runs_nothing_again(project: Path, tmp_path: Path):
    """The wheel in an environment of its own, far from the checkout; folders called as ours are not in its way."""
    wheels, venv = tmp_path / "wheels", tmp_path / "venv"
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT), cwd=tmp_path)
    run(sys.executable, "-m", "venv", str(venv), cwd=tmp_path)
    (packages,) = venv.glob("lib/python*/site-packages")
    # What the wheel depends on is found where these tests find it; a link to the checkout there is not followed.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    place = {"PATH": f"{venv / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}", "PYTHONPATH": ""}
    run("pip", "install", "--no-deps", *map(str, wheels.iterdir()), cwd=tmp_path, **place)
    assert str(packages) in run("python", "-c", "import cli; print(cli.__file__)", cwd=tmp_path, **place)

    run("dvc", "remote", "add", "--quiet", "--default", "there", str(tmp_path / "remote"), cwd=project)
    run("dvc", "push", "--quiet", "--no-run-cache", cwd=project)
    run("git", "commit", "--quiet", "--all", "--message", "Remote", cwd=project)
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", str(project), str(clone), cwd=tmp_path)
    project.rename(project.with_name("gone"))
    for name in ("pipeline", "stages", "cli"):
        (clone / name).mkdir()
        (clone / name / "__init__.py").write_text("raise SystemExit('not this one')")
    run("dvc", "pull", cwd=clone, **place)
    assert repro(clone, **place) == []
    change(clone, lambda values: values["runs"]["aft"]["methods"]["aft"].update(weight=7.0))
    assert repro(clone, **place) == ["join", "train@aft", "evaluate@aft", "report"]


@pytest.mark.slow
def test_experiments_run_in_folders_of_their_own(project: Path):
    output = run("dvc", "exp", "run", "--temp", "-S", "runs.aft.methods.aft.weight=[7.0]", "evaluate@aft", cwd=project)
    assert stages(output) == ["join", "train@aft", "evaluate@aft"]
    assert "with weight 7" in output
    run("dvc", "exp", "run", "--queue", "-S", "runs.both.methods.kd.weight=2.0", "evaluate@both", cwd=project)
    output = run("dvc", "exp", "run", "--run-all", cwd=project)
    assert stages(output) == ["join", "train@both", "evaluate@both"]
    assert "with weight 2" in output
    assert run("dvc", "exp", "list", "--name-only", cwd=project).split() != []


@pytest.mark.slow
def test_queued_experiments_work_beside_a_sweep(project: Path):
    over = {"student": "bag", "teachers": "wise", "methods": "aft", "weight": [3.0, 30.0]}
    change(project, lambda values: values.update(sweep={"mine": {"over": over}}))
    settings = (project / "params.yaml").read_bytes()
    run("dvc", "exp", "run", "-S", "train.steps=7", "--queue", "evaluate@none", cwd=project)
    repro(project, "sweep@mine")
    swept = contents(project, "sweeps")
    assert swept
    assert "train@none" in stages(run("dvc", "exp", "run", "--run-all", cwd=project))
    assert contents(project, "sweeps") == swept and (project / "params.yaml").read_bytes() == settings
    (experiment,) = run("dvc", "exp", "list", "--name-only", cwd=project).split()
    (ref,) = run("git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{experiment}", cwd=project).split()
    assert yaml.safe_load(run("git", "show", f"{ref}:params.yaml", cwd=project))["train"]["steps"] == 7


@pytest.mark.parametrize("command", ["aft run", pytest.param("dvc repro", marks=pytest.mark.slow)])
def test_the_same_inputs_give_the_same_bytes(finished: Path, tmp_path: Path, command: str):
    """In another folder and other processes: without DVC, or one for each stage. Times are in the logs alone."""
    again = start(tmp_path / "again")
    shutil.copytree(finished / "models", again / "models", dirs_exist_ok=True)
    if command == "aft run":
        shutil.rmtree(again / ".dvc")
    run(*command.split(), cwd=again, PYTHONHASHSEED="7")
    # The report shows the times of the logs.
    shutil.copytree(finished / "logs", again / "logs", dirs_exist_ok=True)
    run("aft", "report", cwd=again)
    # The ledger is no output of a stage, and its records hold the seconds of trainings.
    names = [name for name in OUTPUTS if name != "trials"]
    expected, found = contents(finished, *names), contents(again, *names)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_lock_of_dvc_that_a_kill_left_half_written_is_one_line(tmp_path: Path):
    folder = start(tmp_path / "project")
    (folder / ".dvc" / "tmp").mkdir(exist_ok=True)
    (folder / ".dvc" / "tmp" / "rwlock").touch()
    done = call("aft", "run", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        ".dvc/tmp/rwlock: damaged; make sure that no other `dvc` is running, then remove it"
    )
    assert "Traceback" not in done.stderr


def test_one_run_that_fails_does_not_stop_the_others_or_the_report(project: Path):
    bad = {"student": "bag", "train": {"learning_rate": 1.0e30}}
    new = {"student": "bag", "teachers": ["loud"], "methods": {"kd": {"weight": 2.0}}}
    change(project, lambda values: values["runs"].update(bad=bad, new=new))
    done = call("aft", "run", cwd=project)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "bad: seed 0" in done.stderr
    assert not (project / "evaluations" / "bad.json").exists()
    page = (project / "report" / "index.html").read_text()
    assert "aft train bad" in page
    assert "new" in yaml.safe_load((project / "report" / "metrics.json").read_text())


def test_dry_runs_status_and_the_graph_work_before_anything_was_run(tmp_path: Path):
    folder = start(tmp_path / "project")
    expected = [
        *("prepare", "extract@wise", "probe@wise", "extract@loud", "probe@loud", "assess", "join"),
        *("train@none", "train@aft", "train@both", "evaluate@none", "evaluate@aft", "evaluate@both", "report"),
    ]
    assert sorted(stages(run("dvc", "repro", "--dry", cwd=folder))) == sorted(expected)
    assert "extract@wise" in run("dvc", "status", cwd=folder)
    change(folder, lambda values: values.update(sweep={"mine": {"over": {"student": "bag"}}}))
    graph = run("dvc", "dag", "--dot", cwd=folder)
    assert '"train@aft" -> "report"' in graph and '"sweep@mine" -> "report"' in graph
    assert not (folder / "digests").exists()


@pytest.mark.parametrize("in_git", [True, False])
def test_init_prints_commands_that_work_and_names_no_place_outside_of_the_project(tmp_path: Path, in_git: bool):
    if in_git:
        run("git", "init", "--quiet", cwd=tmp_path)
    first, *rest = run("aft", "init", "my project", cwd=tmp_path).splitlines()
    text = b"\n".join(contents(tmp_path, "my project").values()).decode(errors="replace")
    assert str(ROOT) not in text
    assert ".." not in (tmp_path / "my project" / "dvc.yaml").read_text()
    # A package of one's own does not hide the library.
    for name in ("pipeline", "stages"):
        (tmp_path / "my project" / name).mkdir()
        (tmp_path / "my project" / name / "__init__.py").write_text("raise RuntimeError('imported')")
    command = first.rpartition("run: ")[2]
    assert command == "cd 'my project' && aft run"
    run("dvc", "repro", "code", cwd=tmp_path / "my project")  # the first of the stages that `aft run` has DVC run
    assert (tmp_path / "my project" / "digests" / "params.json").is_file()
    assert len(rest) == (0 if in_git else 1)
    if rest:
        assert rest[0].startswith("Experiments (`dvc exp`) need git")
        run("bash", "-c", rest[0].rpartition("run: ")[2], cwd=tmp_path)
    else:
        run("git", "add", "--all", cwd=tmp_path)
        run("git", "commit", "--quiet", "--message", "Start", cwd=tmp_path)
    kept = {Path(name).name for name in run("git", "ls-files", ".dvc", cwd=tmp_path / "my project").splitlines()}
    assert kept == {".gitignore", "config", "runs.json"}
    run("dvc", "exp", "run", "--temp", "-S", "train.steps=7", "code", cwd=tmp_path / "my project")


@pytest.mark.slow
def test_a_kill_in_the_middle_of_extract_loses_no_finished_shard_and_no_seconds(tmp_path: Path):
    folder = start(tmp_path / "project", extract={"precision": "float32", "batch_size": 1, "shard_rows": 256})
    write_table(folder / "raw" / "reviews.csv", rows=6000)
    change(folder, lambda values: values["dataset"].update(deduplicate="none"))
    repro(folder, "prepare")
    store = folder / "features" / "wise.zarr"
    process = subprocess.Popen(
        ["dvc", "repro", "extract@wise"], cwd=folder, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log = folder / "logs" / "wise.extract.json"
    wait_until(lambda: len(finished_shards(store)) >= 3 and log.exists(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in finished_shards(store)}
    before = LogRecord.read(log)
    assert 3 <= len(kept) < 24
    output = run("dvc", "repro", "extract@wise", cwd=folder)
    assert "continuing" in output
    assert len(finished_shards(store)) == 24
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    after = LogRecord.read(log)
    assert before.rows
    # What the killed call computed of a shard that it did not finish is computed, and counted, again.
    assert after.rows == before.rows + 6000 - 256 * len(kept)
    assert after.seconds > before.seconds > 0


def stop(project: Path, target: str, done: Callable[[], int], count: int, number: signal.Signals) -> None:
    """Start `dvc repro TARGET` and send a signal to all of its processes once `done()` has reached `count`."""
    with subprocess.Popen(
        ["dvc", "repro", target], cwd=project, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        wait_until(lambda: done() >= count, process)
        os.killpg(process.pid, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_kills_in_the_middle_of_train_lose_no_finished_training_and_change_no_number(
    project: Path, tmp_path: Path, number: signal.Signals
):
    def longer(values: dict[str, Any]) -> None:
        values["train"]["steps"] = 200
        values["runs"]["aft"]["methods"]["aft"].update(weight=[0.0, 1.0, 3.0, 5.0])

    change(project, longer)
    undisturbed = Path(shutil.copytree(project, tmp_path / "undisturbed", symlinks=True))
    repro(undisturbed, "evaluate@aft")
    before = len(trials(project))
    for finished in (1, 3, 5):
        stop(project, "evaluate@aft", lambda: len(trials(project)), before + finished, number)
        assert len(trials(project)) < before + 8
        assert not (project / "runs" / "aft" / "digest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in trials(project)}
    output = run("dvc", "repro", "evaluate@aft", cwd=project)
    assert f"8 trials, {len(kept) - before} found, {8 - (len(kept) - before)} to train" in output
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    names = ("runs/aft", "evaluations", "bundles")
    assert contents(project, *names) == contents(undisturbed, *names)


def trials(project: Path) -> list[Path]:
    """The records of a project's finished trainings. Unfinished ones are in folders whose name is no digest."""
    return sorted(path for path in project.glob("trials/*/trial.json") if path.parent.name.isalnum())


def finished_shards(store: Path) -> list[Path]:
    """The commit markers of a store's shards."""
    return sorted(store.glob("pooled/c.*.json"))


@pytest.mark.slow
def test_a_sweep_is_a_stage_where_there_is_a_section_and_only_there(project: Path):
    over = {"student": "bag", "teachers": "wise", "methods": ["none", "aft"], "weight": [3.0, 30.0]}
    change(project, lambda values: values.update(sweep={"mine": {"over": over}}))
    ran = repro(project)
    assert ran == ["join", "sweep@mine", "report"]
    assert LogRecord.read(project / "logs" / "mine.sweep.json").trainings == 2, "the rest was in the ledger"
    assert repro(project) == []
    run("dvc", "repro", "--force", "--single-item", "sweep@mine", cwd=project)
    assert repro(project) == ["report"], "which shows it"
    change(project, lambda values: values["sweep"]["mine"]["over"].update(weight=[3.0]))
    assert repro(project) == ["join", "sweep@mine", "report"]
    change(project, lambda values: values.pop("sweep"))
    assert "sweep@mine" not in repro(project)


def test_no_name_is_part_of_a_command():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    commands = [stage["do"]["cmd"] for stage in stages.values() if "do" in stage]
    assert commands and all(command.endswith(' "$DVC_STAGE"') and command.count("$") == 1 for command in commands)


@pytest.mark.parametrize(
    "name",
    [
        "b'; touch pwned; '",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ('b"; touch pwned #', "$(touch pwned)", "`touch pwned`")
        ),
    ],
)
def test_a_stage_that_is_run_by_itself_runs_no_name(tmp_path: Path, name: str):
    """`dvc repro -s` leaves out the first stage, which checks all names; these files take the stage this far."""
    run("aft", "init", str(tmp_path / "project"), cwd=tmp_path)
    project = tmp_path / "project"
    change(project, lambda values: values["teachers"].update({name: {"family": "timm", "model": "m"}}))
    for file in (f"digests/extract/{name}.json", "data/content.json", "data/classes.json"):
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_text('{"digest": "0"}')
    done = call("dvc", "repro", "--single-item", f"extract@{name}", cwd=project)
    assert "Running stage" in done.stdout
    assert f"error: params.yaml: teachers: {name!a} is not a valid name" in done.stderr
    assert done.returncode and not list(project.rglob("pwned"))


@pytest.mark.slow
@pytest.mark.parametrize("section", ["teachers", "students", "runs", "sweep"])
def test_no_name_runs_or_deletes_anything(tmp_path: Path, section: str):
    """The first stage refuses them, in one line: paths in dvc.yaml are such that DVC gets to it."""
    (tmp_path / "outer").mkdir()
    project = start(tmp_path / "outer" / "project", sweep={"mine": {"over": {"student": "bag"}}})
    sound = (project / "params.yaml").read_text()
    above = [tmp_path / "up", tmp_path / "outer" / "up"]
    for folder in above:
        folder.mkdir()
        (folder / "kept").touch()
    for name in ("b; touch pwned #", "`touch pwned`", "$(touch pwned)", "a\ntouch pwned", "-S", "--help", "../../up"):
        (project / "params.yaml").write_text(sound)
        change(project, lambda values, name=name: values[section].update({name: next(iter(values[section].values()))}))
        done = call("dvc", "repro", cwd=project)
        assert done.returncode and re.findall(r"Running stage '(\S+)'", done.stdout) == ["code"], name
        (line,) = re.findall("error: .*", done.stderr)
        assert line.startswith(f"error: params.yaml: {section}: {name!a} is not a valid name"), line
        assert all((folder / "kept").exists() for folder in above) and not list(tmp_path.rglob("*pwned*"))
