"""What was trained, as tables for a terminal: runs, the points of a sweep, and the trials of the ledger."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import tasks
from pipeline.changed import changed_run
from pipeline.conditions import conditions, selected
from pipeline.errors import UserError, count, listed, suggestion
from pipeline.files import file_exists
from pipeline.params import Params
from pipeline.project import Project
from pipeline.provenance import digest_of
from pipeline.records import EvaluationRecord, ManifestRecord, RunRecord, SweepRecord, TrialRecord, mean_score
from pipeline.reporting.chart import chart
from pipeline.reporting.inputs import read_curve
from pipeline.runs import label, value_label
from pipeline.terminal import table
from pipeline.verified import VerifiedFiles

Row = dict[str, Any]


@dataclass(frozen=True)
class Overview:
    """Rows of a table; all have the same keys. None is what is not known, or not there yet."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        if not self.rows:
            return "nothing to list"
        columns = list(self.rows[0])
        numbers = [all(isinstance(row[column], int | float | None) for row in self.rows) for column in columns]
        return table(columns, [[_cell(row[column]) for column in columns] for row in self.rows], numbers)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def list_runs(params: Params, project: Project = Project(), where: str = "", sort: str = "") -> Overview:
    """The runs of params.yaml: what they are, and their mean scores on validation and test rows.

    The state says if a run was trained with other settings than those of `params`, or on other data than there is now.

    Args:
        params: all settings.
        project: where the records are.
        where: conditions on the columns.
        sort: a column; from the largest if a `-` is in front.

    Raises:
        UserError: a condition or column is wrong.
    """
    data = _data(project)
    return _listing([_run(name, params, project, data) for name in params.section("runs")], where, sort)


def _run(name: str, params: Params, project: Project, data: str | None) -> Row:
    """What there is of a run; `data` is the digest of the dataset, if it can be read."""
    row: Row = dict.fromkeys(
        ("run", "student", "teachers", "methods", "chosen", "validation", "test", "seeds", "trials", "state")
    )
    row |= {"run": name, "state": "not trained"}
    path = project.run(name) / "run.json"
    if not file_exists(path):
        return row
    try:
        run = RunRecord.read(path, name)
    except UserError as error:
        return row | {"state": str(error)}
    scores = run.chosen_scores
    row |= {
        "student": run.student.name,
        "teachers": "+".join(run.sources) or None,
        "methods": "+".join(method.name for method in run.methods) or "none",
        "chosen": label(run.chosen, run.chosen_settings),
        "validation": sum(scores) / len(scores),
        "seeds": len(run.seeds),
        "trials": run.trainings,
        "state": "trained",
    }
    if file_exists(project.evaluation(name)):
        try:
            tested = EvaluationRecord.read(project.evaluation(name), name)
        except UserError as error:
            return row | {"state": str(error)}
        if tested.students == run.students_digest:
            results = (result.scores for result in tested.results)
            row |= {"test": mean_score(results, tested.primary.name), "state": "evaluated"}
    if changed_run(params, project, name):
        row["state"] += ", other settings"
    elif data not in (None, run.data):
        row["state"] += ", other data"
    return row


def _data(project: Project) -> str | None:
    """The digest of the dataset that there is now; None if it cannot be read."""
    with suppress(UserError):
        return ManifestRecord.read(project.data / "manifest.json").files_digest
    return None


def list_points(sweep: str, project: Project = Project(), where: str = "", sort: str = "") -> Overview:
    """The points of a finished sweep, each with its number, for `aft compare`. Arguments and errors as `list_runs`."""
    record = SweepRecord.read(project.sweep(sweep), sweep)
    keys = dict.fromkeys(key for point in record.points for key in point.values)
    rows = []
    for number, point in enumerate(record.points):
        row: Row = {"point": f"{sweep}/{number}"}
        row |= {key: value_label(point.values[key]) if key in point.values else None for key in keys}
        rows.append(row | {"validation": point.mean, "seeds": len(point.val_scores), "outcome": point.outcome})
    return _listing(rows, where, sort, [point.values for point in record.points])


def list_trials(project: Project = Project(), where: str = "", sort: str = "") -> Overview:
    """All finished trials of the ledger; of damaged ones, only the state. Arguments and errors as `list_runs`."""
    return _listing(list(_trials(project)), where, sort)


def _trials(project: Project) -> Iterator[Row]:
    for path in sorted(project.trials.glob("*/trial.json")) if project.trials.is_dir() else []:
        if path.parent.name.startswith("."):
            continue
        row: Row = dict.fromkeys(
            ("trial", "student", "teachers", "methods", "weight", "seed", "steps", "validation", "seconds")
        )
        trial = None
        with suppress(UserError):
            trial = TrialRecord.read(path)
        if trial is None or digest_of(trial.inputs) != path.parent.name:
            # The ledger trains it again when a run needs it.
            yield row | {"trial": path.parent.name, "state": "damaged"}
            continue
        found = trial.inputs
        methods = found.get("methods", [])
        yield {
            "trial": path.parent.name,
            "student": found["student"]["family"],
            # Of a student that reads features, they are the digests by name.
            "teachers": "+".join(s if isinstance(s, str) else s["name"] for s in found.get("sources", [])) or None,
            "methods": "+".join(method["name"] for method in methods) or "none",
            "weight": "+".join(f"{method['weight']:g}" for method in methods) or None,
            "seed": found["seed"],
            "steps": found["train"]["steps"],
            "validation": trial.scores.get(tasks.build(found["task"], ()).primary.name),
            "seconds": trial.seconds,
            "state": "diverged" if trial.diverged else "done",
        }


def _listing(rows: Sequence[Row], where: str, sort: str, values: Sequence[Row] | None = None) -> Overview:
    """The rows that meet the conditions, in order; `values` are those to compare, where rows only show them."""
    columns = list(rows[0]) if rows else []
    wanted = conditions(where, columns) if rows else []
    compared = [row | more for row, more in zip(rows, values or rows, strict=True)]
    kept = [(row, of) for row, of in zip(rows, compared, strict=True) if selected(_numbers(of), wanted)]
    if sort:
        column, last = sort.removeprefix("-"), sort.startswith("-")
        if rows and column not in columns:
            raise UserError(f"--sort {sort}: no `{column}`{suggestion(column, columns)}; there are {listed(columns)}")
        known = [pair for pair in kept if pair[1].get(column) is not None]
        texts = any(isinstance(of[column], str | list | dict) for _, of in known)
        known.sort(key=lambda pair: str(pair[1][column]) if texts else pair[1][column], reverse=last)
        kept = known + [pair for pair in kept if pair[1].get(column) is None]
    return Overview(tuple(row for row, _ in kept))


def _numbers(row: Row) -> Row:
    """A row with texts that are numbers as numbers: one weight is one, `10+1` is not."""
    found = dict(row)
    for key, value in row.items():
        if isinstance(value, str):
            with suppress(ValueError):
                found[key] = float(value)
    return found


@dataclass(frozen=True)
class Curves:
    """The curves of a run.

    Attributes:
        run: its name.
        columns: by name of the column, steps and values of the chosen candidate, averaged over seeds.
    """

    run: str
    title: str
    columns: dict[str, tuple[tuple[int, float], ...]]

    def __str__(self) -> str:
        return "\n\n".join([self.title, *(chart(name, points) for name, points in self.columns.items())])


def show_run(name: str, project: Project = Project()) -> Curves:
    """The curves of the chosen candidate of a run: its validation score, and its losses.

    Raises:
        UserError: the run is not trained, or its files are damaged.
    """
    if "/" in name:
        raise UserError(
            f"{name}: a point of a sweep, and curves are kept of runs; add it to `runs`, under a name of its own, and "
            "run `aft train NAME`, which finds its trainings"
        )
    folder: Path = project.run(name)
    run = RunRecord.read(folder / "run.json", name)
    VerifiedFiles(folder, {"curves.csv": run.files["curves.csv"]}, f"run `aft train {name}` again").finish()
    columns = {}
    for column, title in (
        (f"val_{run.metric.name}", f"validation {run.metric.label}"),
        ("task_loss", "loss on labels"),
        ("penalty", "penalty, weighted"),
    ):
        found = tuple((point.step, point.mean) for point in read_curve(folder / "curves.csv", run, column))
        if column != "penalty" or any(run.chosen):
            columns[title] = found
    seeds = f"{'mean of ' if len(run.seeds) > 1 else ''}{count(len(run.seeds), 'seed')}"
    return Curves(name, f"{name}: {label(run.chosen, run.chosen_settings)}, {seeds}, by step", columns)
