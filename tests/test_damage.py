"""Every file of a finished project, damaged one at a time: the stage that reads it refuses it, or gives the same."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project
from pipeline.reporting import report
from pipeline.runs import join
from pipeline.training import evaluate, train


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What a failing disk or a copy that broke off makes of a file."""
    middle = len(content) // 2
    yield "flip", content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    yield "zero", content[:middle] + bytes(64) + content[middle + 64 :]
    yield "cut", content[:middle]


def results(project: Path) -> dict[str, bytes]:
    """What a reader of the project looks at."""
    names = ("bundles/aft.json", "evaluations/aft.json", "report/metrics.json", "report/curves.csv")
    return {name: (project / name).read_bytes() for name in names}


def stages(params: Params, project: Project) -> dict[str, Callable[[], object]]:
    """The stage that reads what is in a folder of the project."""

    def trained() -> None:
        shutil.rmtree(project.trials, ignore_errors=True)
        train("aft", params, project)

    return {
        "data": lambda: join(params, project),
        "probes": lambda: (join(params, project), trained(), evaluate("aft", params, project)),
        "runs": lambda: (evaluate("aft", params, project), report(params, project)),
        "evaluations": lambda: report(params, project),
    }


def test_no_damage_gives_another_result_without_a_word(project: Path, params: Params):
    params.values["runs"] = {"aft": {"student": "bag", "teachers": ["wise"], "methods": {"kd": {"weight": 1.0}}}}
    params.values["train"] |= {"steps": 3, "seeds": [0, 1]}
    shutil.rmtree(project / "probes" / "loud")
    paths = Project(project)
    join(params, paths)
    train("aft", params, paths)
    evaluate("aft", params, paths)
    report(params, paths)
    expected, tried, refused = results(project), 0, 0
    for folder, run in stages(params, paths).items():
        for file in sorted(path for path in (project / folder).rglob("*") if path.is_file()):
            kept = file.read_bytes()
            for what, content in damages(kept):
                if content == kept:
                    continue
                file.write_bytes(content)
                tried += 1
                try:
                    run()
                except UserError as error:
                    refused += 1
                    assert "\n" not in str(error)
                    assert file.name in str(error), f"{what} of {file}"
                else:
                    assert results(project) == expected, f"{what} of {file}"
                file.write_bytes(kept)
    assert refused > 0.9 * tried > 30


@pytest.mark.parametrize("name", ["run.json", "curves.csv", "students/0/weights.safetensors"])
def test_a_run_whose_files_are_mixed_up_is_refused(project: Path, params: Params, name: str):
    params.values["train"] |= {"steps": 3, "seeds": [0, 1]}
    for run in ("none", "aft"):
        train(run, params, Project(project))
    shutil.copyfile(project / "runs" / "aft" / name, project / "runs" / "none" / name)
    with pytest.raises(UserError, match="damaged; run `aft train none` again"):
        evaluate("none", params, Project(project))
