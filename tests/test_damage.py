"""Every file of a finished project, damaged one at a time: every reader refuses it by name or gives the same result."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project
from pipeline.store import choice
from pipeline.training import evaluate, train
from tests.commands import aft
from tests.finished import contents, remove

READERS = {
    "data/": ("extract wise", "probe wise", "assess", "join", "train aft", "evaluate aft", "report"),
    "features/wise.json": ("join",),
    "features/wise.zarr/": (
        "probe wise", "assess", "join", "train aft", "evaluate probe", "report", "features verify features/wise.zarr",
        "features export features/wise.zarr exported.npy",
    ),
    "probes/": ("assess", "join", "train aft", "evaluate aft", "report"),
    "assessments/": ("report",),
    "bundles/": ("evaluate aft", "report"),
    "trials/": ("trials",),
    "runs/aft/": ("evaluate aft", "report", "export aft --output exported"),
    "sweeps/": ("report",),
    "exported/": ("predict exported raw/reviews.csv --output predicted.csv",),
    "evaluations/aft": ("report",),
    "logs/": ("evaluate aft", "report"),
    ".aft/inputs/": ("assess", "train aft", "evaluate aft"),
}  # fmt: skip
"""What reads the files of a project, by how their names begin.

params.yaml is not among them: it is the user's, and another valid one is another wish.
"""

KEPT = {
    "bundles/": ("join",),
    "digests/": ("code",),
    "features/wise.zarr/": ("extract wise",),
    "trials/": ("train none", "train aft"),
}
"""Commands that go on with what is there: they repair it, or take it for the same."""

Damage = Callable[[Path], object]
LAST = ("report/metrics.json", "report/curves.csv")


def damages(content: bytes) -> Iterator[Damage]:
    """What a failing disk, a copy that broke off, or another program makes of a file with this content."""
    middle = len(content) // 2
    for damaged in (
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        content[:middle] + bytes(len(content[middle : middle + 64])) + content[middle + 64 :],
        content[:middle],
    ):
        if damaged != content:
            yield lambda path, damaged=damaged: path.write_bytes(damaged)
    yield lambda path: (path.unlink(), os.mkfifo(path))


def results(project: Path) -> dict[str, bytes]:
    """What a reader of the project looks at."""
    return contents(project) | {name: (project / name).read_bytes() for name in LAST if (project / name).is_file()}


def harmless(finished: Path, name: str, damage: Damage, line: str, kept: bool) -> bool:
    """Damage a file of a copy of the finished project, and run what reads it: whether that gives the same results.

    If not it must have refused the file by its name. What `line` writes is deleted before, unless it is `kept`.
    """
    project = finished.with_name("damaged")
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(finished, project)
    if not kept:
        remove(project, line)
    damage(project / name)
    ended = aft(line, project)
    assert ended.code != 2 or len(ended.refusals) == 1, ended.errors
    page = project / "report" / "index.html"
    said = ended.errors + ended.out + (page.read_text() if page.is_file() and line == "report" else "")
    expected, found = results(finished), results(project)
    if ended.code == 0 and all(found.get(other) == expected[other] for other in expected if other != name):
        return True
    assert Path(name).name in said or (".zarr" in name and "features/wise.zarr" in said), said
    return False


def files(finished: Path, start: str) -> list[str]:
    """The files of a project whose names begin so, but for empty ones."""
    found = [path for path in sorted(finished.rglob("*")) if path.is_file() and path.stat().st_size]
    names = [path.relative_to(finished).as_posix() for path in found]
    return [name for name in names if name.startswith(start)]


def test_no_damage_gives_another_result_without_a_word(finished: Path):
    """Some files of each kind, each with one kind of damage and one reader, in turn."""
    number = tried = refused = 0
    for readers, kept in ((READERS, False), (KEPT, True)):
        for start, lines in readers.items():
            names = files(finished, start)
            for name in names[:: max(1, len(names) // 2)]:
                choices = [(damage, line) for damage in damages((finished / name).read_bytes()) for line in lines]
                number, tried = number + 5, tried + 1
                refused += not harmless(finished, name, *choices[number % len(choices)], kept)
    assert tried > refused > tried / 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "line", "kept"),
    [
        (start, line, kept)
        for readers, kept in ((READERS, False), (KEPT, True))
        for start, lines in readers.items()
        for line in lines
    ],
)
def test_no_damage_at_all_gives_another_result_without_a_word(finished: Path, start: str, line: str, kept: bool):
    for name in files(finished, start):
        for damage in damages((finished / name).read_bytes()):
            harmless(finished, name, damage, line, kept)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("features/wise.zarr/pooled/c.0.0", "probe wise"),
        ("data/rows.parquet", "join"),
        ("runs/aft/students/0/weights.safetensors", "evaluate aft"),
    ],
)
def test_who_knows_better_reads_what_differs_from_its_checksum(finished: Path, name: str, line: str):
    project = Path(shutil.copytree(finished, finished.with_name("known")))
    content = bytearray((project / name).read_bytes())
    # The low bits of a number, or of the text that says which library wrote the table.
    at = content.rindex(b"parquet-cpp") if name.endswith(".parquet") else 0 if ".zarr" in name else -2
    content[at] ^= 1
    (project / name).write_bytes(content)
    refused = aft(line, project)
    assert refused.code == 2 and len(refused.refusals) == 1
    assert aft(f"{line} --no-verify", project).code == 0


def test_a_damaged_raw_copy_is_refused_or_made_anew(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("AFT_CACHE", str(cache))
    monkeypatch.setattr(choice, "RESIDENT_SHARE", 0.0)
    shutil.rmtree(finished / "features" / "wise.zarr")
    assert aft("extract wise -S extract.codec=zstd", finished).code == 0
    assert aft("probe wise", finished).code == 0
    expected = contents(finished)
    files = [path for path in sorted(cache.rglob("*")) if path.is_file() and path.stat().st_size]
    assert {"files.json", "c.0.0"} < {path.name for path in files}
    refused = 0
    for path in files:
        kept = path.read_bytes()
        for damage in [*damages(kept)][::3] if path.name in ("files.json", "c.0.0") or "verified" in path.parts else ():
            damage(path)
            ended = aft("probe wise", finished)
            refused += ended.code == 2
            assert ended.code == 0 or path.parent.parent.name in ended.refusals[0], ended.errors
            assert contents(finished) == expected, path
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(kept)
    assert refused


@pytest.mark.parametrize("name", ["run.json", "curves.csv", "students/0/weights.safetensors"])
def test_a_run_whose_files_are_mixed_up_is_refused(project: Path, params: Params, name: str):
    params.values["train"] |= {"steps": 3, "seeds": [0, 1]}
    for run in ("none", "aft"):
        train(run, params, Project(project))
    shutil.copyfile(project / "runs" / "aft" / name, project / "runs" / "none" / name)
    with pytest.raises(UserError, match="; run `aft train none` again"):
        evaluate("none", params, Project(project))
