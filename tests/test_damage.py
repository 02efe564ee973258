"""Every file of a finished project, damaged one at a time: whoever reads it refuses it by name, or gives the same."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project
from pipeline.training import evaluate, train
from tests.commands import aft
from tests.finished import contents, remove

READERS = {
    "params.yaml": ("join",),
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
    "runs/aft/": ("evaluate aft", "report"),
    "evaluations/aft.json": ("report",),
    "logs/": ("evaluate aft", "report"),
    ".aft/inputs/": ("assess", "train aft", "evaluate aft"),
}  # fmt: skip
"""What reads the files of a project, by how their names begin."""

KEPT = {
    "bundles/": ("join",),
    "digests/": ("code",),
    "features/wise.zarr/": ("extract wise",),
    "trials/": ("train none", "train aft"),
}
"""Commands that go on with what is there: they repair it, or take it for the same."""

LAST = ("report/metrics.json", "report/curves.csv")


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What a failing disk or a copy that broke off makes of a file."""
    middle = len(content) // 2
    yield "flip", content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    yield "zero", content[:middle] + bytes(len(content[middle : middle + 64])) + content[middle + 64 :]
    yield "cut", content[:middle]


def results(project: Path) -> dict[str, bytes]:
    """What a reader of the project looks at."""
    return contents(project) | {name: (project / name).read_bytes() for name in LAST if (project / name).is_file()}


def harmless(finished: Path, name: str, content: bytes, line: str, kept: bool) -> bool:
    """Damage a file of a copy of the finished project, and run what reads it: whether that gives the same results.

    If not it must have refused the file by its name. What `line` writes is deleted before, unless it is `kept`.
    """
    project = finished.with_name("damaged")
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(finished, project)
    if not kept:
        remove(project, line)
    (project / name).write_bytes(content)
    ended = aft(line, project)
    assert ended.code != 2 or len(ended.refusals) == 1, ended.errors
    page = project / "report" / "index.html"
    said = ended.errors + ended.out + (page.read_text() if page.is_file() and line == "report" else "")
    expected, found = results(finished), results(project)
    if ended.code == 0 and all(found[other] == expected[other] for other in expected if other != name):
        return True
    assert Path(name).name in said or ".zarr" in name and "features/wise.zarr" in said, said
    return False


def walk(finished: Path, every: bool) -> Iterator[tuple[str, str, bytes, str, bool]]:
    """Damages to try: name, kind and content of a file, what reads it, and whether that goes on with what is there.

    Without `every`, one kind of damage to each file, and one of the readers in turn.
    """
    number = 0
    for readers, kept in ((READERS, False), (KEPT, True)):
        for start, lines in readers.items():
            for path in sorted(path for path in finished.rglob("*") if path.is_file()):
                name, content = path.relative_to(finished).as_posix(), path.read_bytes()
                if not name.startswith(start) or not content or (not every and "/c.0" not in name and "/c." in name):
                    continue
                tried = [(how, damaged, line) for how, damaged in damages(content) for line in lines]
                number += 1
                for how, damaged, line in tried if every else [tried[number % len(tried)]]:
                    if damaged != content:
                        yield name, how, damaged, line, kept


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_damage_gives_another_result_without_a_word(finished: Path, every: bool):
    tried = refused = 0
    for name, how, content, line, kept in walk(finished, every):
        tried += 1
        refused += not harmless(finished, name, content, line, kept)
    assert tried > refused > tried / 3
