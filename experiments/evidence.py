"""Runs the studies, and writes their tables from the records of the runs: no figure is typed by hand.

    make evidence                                   # all sets; hours. It continues where it was interrupted
    make evidence SETS="digits patches" SEEDS="0 1 2"

A set is a file next to this one, `digits.yaml`. Its project is `evidence/digits/`, where `aft run --direct` does what
is missing. Then every run is paired, seed by seed, with plain training, with plain training of augmented rows, and with
transfer of clean rows. Run it again for the tables of what there is so far: `make evidence TABLES=1`.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from experiments.sets import SETS, write
from pipeline.errors import UserError
from pipeline.functional.statistics import standard_error
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import EvaluationRecord, RunRecord
from pipeline.reporting import pair_runs

HERE = Path(__file__).parent
REFERENCES = ("none", "none_augmented", "clean")
"""Runs that every other one is paired with."""


def run(name: str, folder: Path, seeds: list[int]) -> int:
    """Do what is missing of a set; returns the exit code of `aft run`."""
    if name in SETS:
        write(name, folder / "raw")
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / f"{name}.yaml", folder / "params.yaml")
    changes = ["-S", f"train.seeds={seeds}"] if seeds else []
    return subprocess.run(
        [sys.executable, str(HERE.parent / "cli.py"), "run", "--direct", *changes], cwd=folder
    ).returncode


def table(name: str, folder: Path) -> str:
    """A set's runs that are evaluated, as a table in Markdown."""
    params, project = Params.load(folder / "params.yaml"), Project(folder)
    done = [each for each in params.section("runs") if project.evaluation(each).is_file()]
    references = [each for each in REFERENCES if each in done]
    lines = [
        f"## {name}",
        "",
        "| run | steps | test, % | " + " | ".join(f"against `{each}`" for each in references) + " |",
        "|---" * (3 + len(references)) + "|",
    ]
    for each in done:
        record = EvaluationRecord.read(project.evaluation(each), each)
        scores = [100 * value for of in record.results if (value := of.scores[record.primary.name]) is not None]
        error = standard_error(scores)
        cells = [f"{fmean(scores):.1f}" + ("" if error is None else f" ± {error:.1f}")]
        cells += [_against(each, reference, params, project) for reference in references]
        steps = RunRecord.read(project.run(each) / "run.json", each).steps
        lines.append(f"| {each} | {steps} | " + " | ".join(cells) + " |")
    probes = {
        each: [100 * value for of in record.probe or () if (value := of.scores[record.primary.name]) is not None]
        for each in done
        if (record := EvaluationRecord.read(project.evaluation(each), each)).probe
    }
    if probes:
        lines += ["", f"The teacher's linear probe: {fmean(next(iter(probes.values()))):.1f}."]
    return "\n".join(lines) + "\n"


def _against(one: str, other: str, params: Params, project: Project) -> str:
    """The paired difference of two runs with its 95 % interval."""
    if one == other:
        return ""
    try:
        found = pair_runs(one, other, params, project).difference
    except UserError:
        return "other seeds"
    if found.low is None or found.high is None:
        return f"{100 * found.mean:+.1f}"
    return f"{100 * found.mean:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def main() -> None:
    """See the module."""
    known = sorted(path.stem for path in HERE.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("evidence"))
    parser.add_argument("--sets", nargs="*", choices=known, default=known)
    parser.add_argument("--seeds", nargs="*", type=int, default=[])
    parser.add_argument("--tables", action="store_true", help="only write the tables of what is there")
    given = parser.parse_args()
    codes = [] if given.tables else [run(name, given.folder / name, given.seeds) for name in given.sets]
    found = [table(name, given.folder / name) for name in given.sets if (given.folder / name / "params.yaml").is_file()]
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "results.md").write_text("\n".join(found))
    print("\n".join(found))
    sys.exit(max(codes, default=0))


if __name__ == "__main__":
    main()
