"""Runs the studies, and writes their tables from the records of the runs: no figure is typed by hand.

    make evidence                                   # all sets; hours. It continues where it was interrupted
    make evidence SETS="digits patches" SEEDS="0 1 2"

A set is a file next to this one, `digits.yaml`. Its project is `evidence/digits/`, where `aft run --direct` does what
is missing. Then every run is paired, seed by seed, with plain training, with plain training of augmented rows, and with
transfer of clean rows, and the share of the gap from plain training to the teacher's probes that it closes is shown:
to the linear probe, and to the kernel probe. Where plain training with a mixed last layer is among the runs, test
errors are also divided by its error and by that of plain training, seed by seed; of several such sets, the mean over
them is a table of its own. Runs that are called ARM_STEPS, `v8_1000`, are a table of their own: arms by steps, each
paired with `v0`. What other programs reach on the same rows is read from a set's `peers/`
(experiments/setfit_rival.py), rows per second where `aft cost` was run in its folder. Tables of what there is so far:
`make evidence TABLES=1`.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from experiments.sets import SETS, write
from pipeline.errors import UserError
from pipeline.functional.statistics import Paired, paired, standard_error
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import CostRecord, EvaluationRecord, ProbeRecord, RunRecord
from pipeline.reporting import pair_runs
from pipeline.sources import Source

HERE = Path(__file__).parent
REFERENCES = ("none", "none_augmented", "clean", "logit_kd", "aft_plus", "logit_kd_views")
"""Runs that every other one is paired with."""

PLAIN = "none"
"""The run from which a gap is counted."""

MIXED = "none_mixed"
"""Plain training with a mixed last layer. Of a set that has it, errors are divided by its own and `PLAIN`'s."""

CELL = re.compile(r"(\w+)_(\d+)")
"""A run of a grid: its arm and its steps."""

CENTRE = "v0"
"""The arm that the others of a grid are paired with."""


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


def tables(name: str, folder: Path) -> str:
    """A set's runs that are evaluated, as tables in Markdown."""
    params, project = Params.load(folder / "params.yaml"), Project(folder)
    done = [each for each in params.section("runs") if project.evaluation(each).is_file()]
    cells = {each: (found[1], int(found[2])) for each in done if (found := CELL.fullmatch(each))}
    parts = [f"## {name}"]
    if alone := [each for each in done if each not in cells]:
        parts.append(_table(alone, params, project, folder / "peers"))
    if ratios := errors(folder):
        parts.append(_error_table(ratios))
    if cells:
        parts.append(_grid(cells, params, project))
    probes = dict(scored for each in done if (scored := _probes(each, project)))
    for sources, scores in probes.items():
        parts.append(
            f"The linear probe of {sources}: {scores[0]:.1f}."
            + "".join(f" The kernel probe: {each:.1f}." for each in scores[1:])
        )
    return "\n\n".join(parts) + "\n"


def errors(folder: Path) -> dict[str, list[Paired | None]]:
    """Test errors of a set's runs over that of `PLAIN` and over that of `MIXED`; empty if the set lacks one of these.

    Returns:
        by run, for each of the two: the mean over seeds of the ratio of two errors; None if their seeds differ.
    """
    project, names = Project(folder), Params.load(folder / "params.yaml").section("runs")
    scores = {each: _scores(each, project) for each in names if project.evaluation(each).is_file()}
    if not {PLAIN, MIXED} <= scores.keys():
        return {}

    def ratio(of: dict[int, float], reference: dict[int, float]) -> Paired | None:
        same = of.keys() == reference.keys()
        return paired([(100 - of[seed]) / (100 - reference[seed]) for seed in of]) if same else None

    return {each: [ratio(of, scores[reference]) for reference in (PLAIN, MIXED)] for each, of in scores.items()}


def over_sets(folders: list[Path]) -> str:
    """The mean over sets of `errors`, with an interval over sets, for runs that all of these sets have; or nothing."""
    found = [each for each in map(errors, folders) if each]
    if len(found) < 2:
        return ""
    means = {}
    for each in [each for each in found[0] if all(each in of for of in found)]:
        of_sets = [[ratio.mean for of in found if (ratio := of[each][reference])] for reference in (0, 1)]
        means[each] = [paired(of) if len(of) == len(found) else None for of in of_sets]
    return f"## {len(found)} sets\n\n{_error_table(means)}\n"


def _error_table(found: dict[str, list[Paired | None]]) -> str:
    """Runs, and their errors over those of plain training, not mixed and mixed."""
    lines = [f"| run | error over that of `{PLAIN}` | over that of `{MIXED}` |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {run} | " + " | ".join(map(_ratio, of)) + " |" for run, of in found.items())])


def _ratio(found: Paired | None) -> str:
    if found is None:
        return "other seeds"
    interval = "" if found.low is None or found.high is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.mean:.2f}{interval}"


def _probes(run: str, project: Project) -> tuple[str, list[float]] | None:
    """A run's sources, and the mean test scores of their linear probe and, of a single source, of its kernel probe."""
    record = EvaluationRecord.read(project.evaluation(run), run)
    if not record.probe:
        return None
    name, sources = record.primary.name, [Source.parse(source).clean for source in record.sources]
    scores = [[value for of in record.probe if (value := of.scores[name]) is not None]]
    if len(sources) == 1:
        splits = ProbeRecord.read(project.probe(sources[0]) / "probe.json", sources[0].name).splits
        of = [splits[each.split].kernel_test[name] for each in record.probe]
        scores.append([value for value in of if value is not None])
    return " + ".join(each.name for each in sources), [100 * fmean(each) for each in scores]


def _table(runs: list[str], params: Params, project: Project, peers: Path) -> str:
    """Runs, and other programs on the same rows; what they serve by `aft cost` and by these, where it was measured."""
    references = [each for each in REFERENCES if each in runs]
    lines = [
        "| run | steps | test, % | "
        + " | ".join(f"against `{each}`" for each in references)
        + " | gap closed | rows/s |",
        "|---" * (5 + len(references)) + "|",
    ]
    for each in runs:
        cells = [_score(each, project), *(_against(each, reference, params, project) for reference in references)]
        steps = RunRecord.read(project.run(each) / "run.json", each).steps
        cells.append(_closed(each, project) if PLAIN in runs else "")
        lines.append(f"| {each} | {steps} | " + " | ".join(cells) + f" | {_speed(each, project)} |")
    for path in sorted(peers.glob("*.json")):
        peer = json.loads(path.read_text())
        scores = dict(zip(peer["seeds"], peer["test"], strict=True))
        cells = [_mean([100 * score for score in peer["test"]])]
        cells += [_against_peer(scores, reference, project) for reference in references]
        lines.append(f"| {path.stem} |  | " + " | ".join(cells) + f" |  | {peer['rows_per_second']:,.0f} |")
    return "\n".join(lines)


def _closed(run: str, project: Project) -> str:
    """The share of the gap from plain training to the linear and to the kernel probe; nothing where there is no gap."""
    found, plain, score = _probes(run, project), *(_scores(each, project) for each in (PLAIN, run))
    if found is None or plain.keys() != score.keys():
        return ""
    low = fmean(plain.values())
    shares = [(fmean(score.values()) - low) / (probe - low) for probe in found[1] if probe > low]
    return ", ".join(f"{share:.0%}".replace("%", " %") for share in shares)


def _speed(run: str, project: Project) -> str:
    """Rows per second of a run's student, in batches of 32."""
    path = project.log("cost", run)
    if not path.is_file():
        return ""
    student = CostRecord.read(path, run).models[0]
    return f"{next(each.rows_per_second for each in student.batches if each.rows == 32):,.0f}"


def _against_peer(scores: dict[int, float], run: str, project: Project) -> str:
    """The paired difference of a peer and a run, if they have the same seeds."""
    record = EvaluationRecord.read(project.evaluation(run), run)
    of = {each.seed: value for each in record.results if (value := each.scores["accuracy"]) is not None}
    if of.keys() != scores.keys():
        return "other seeds"
    return _shown(paired([scores[seed] - of[seed] for seed in of]))


def _grid(cells: dict[str, tuple[str, int]], params: Params, project: Project) -> str:
    """Arms by steps: scores first, then differences."""
    runs = {cell: run for run, cell in cells.items()}
    steps = sorted({steps for _, steps in cells.values()})
    arms = list(dict.fromkeys(arm for arm, _ in cells.values()))
    lines = ["| test, % | " + " | ".join(f"{each:,} steps" for each in steps) + " |", "|---" * (1 + len(steps)) + "|"]
    for arm in arms:
        scores = [_score(runs[arm, each], project) if (arm, each) in runs else "" for each in steps]
        lines.append(f"| {arm} | " + " | ".join(scores) + " |")
    for arm in [each for each in arms if each != CENTRE and CENTRE in arms]:
        pairs = [((arm, each), (CENTRE, each)) for each in steps]
        found = [_against(runs[x], runs[y], params, project) if x in runs and y in runs else "" for x, y in pairs]
        lines.append(f"| {arm} against {CENTRE} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def _score(run: str, project: Project) -> str:
    """The mean test score, and its standard error."""
    return _mean(list(_scores(run, project).values()))


def _scores(run: str, project: Project) -> dict[int, float]:
    """The test score of each seed, %."""
    record = EvaluationRecord.read(project.evaluation(run), run)
    return {of.seed: 100 * value for of in record.results if (value := of.scores[record.primary.name]) is not None}


def _mean(scores: list[float]) -> str:
    error = standard_error(scores)
    return f"{fmean(scores):.1f}" + ("" if error is None else f" ± {error:.1f}")


def _against(one: str, other: str, params: Params, project: Project) -> str:
    """The paired difference of two runs with its 95 % interval."""
    if one == other:
        return ""
    try:
        return _shown(pair_runs(one, other, params, project).difference)
    except UserError:
        return "other seeds"


def _shown(found: Paired) -> str:
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
    folders = [path for name in given.sets if ((path := given.folder / name) / "params.yaml").is_file()]
    found = [tables(path.name, path) for path in folders]
    found += [each] if (each := over_sets(folders)) else []
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "results.md").write_text("\n".join(found))
    print("\n".join(found))
    sys.exit(max(codes, default=0))


if __name__ == "__main__":
    main()
