"""The report: what the runs show, said as carefully as their seeds allow.

Writes one self-contained page, `metrics.json` for `dvc metrics show` and `curves.csv` for `dvc plots show`. Equal
inputs give equal bytes.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2
import numpy as np
import yaml
from pydantic import Field
from scipy import stats

from pipeline.errors import UserError
from pipeline.functional.statistics import standard_error
from pipeline.params import Params
from pipeline.reporting import figures, text
from pipeline.reporting.comparison import Comparison, Outcome, Record, compare, load
from pipeline.reporting.ranking import Ranking, ranking
from pipeline.reporting.text import count, duration, listed, percent, seeds, sentence
from pipeline.runs.config import label, settings_label


class ProbeSplit(Record):
    """A teacher's probe on one draw of the splits."""

    split: int
    strength: float
    val_accuracy: float
    test_accuracy: float
    train_rows: int
    kernel_test_accuracy: float


class Probe(Record):
    """probes/<teacher>.json."""

    teacher: str
    splits: tuple[ProbeSplit, ...] = Field(min_length=1)
    seconds: float

    @property
    def test_accuracies(self) -> list[float]:
        """Test accuracy per draw."""
        return [split.test_accuracy for split in self.splits]

    @property
    def kernel_accuracies(self) -> list[float]:
        """Test accuracy of the kernel probe per draw."""
        return [split.kernel_test_accuracy for split in self.splits]


class Manifest(Record):
    """data/manifest.json, as far as the report tells of it."""

    kind: str
    rows: int
    digest: str
    classes: tuple[str, ...]
    without_label: int
    splits: int
    rows_of_class: tuple[dict[str, tuple[int, ...]], ...]
    dropped: dict[str, int]
    notes: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def source(self) -> dict[str, Any]:
        """Where the rows come from: the family and its settings."""
        return dict(self.settings.get("source", {}))


@dataclass(frozen=True)
class Stored:
    """A feature store, as far as the report tells of it: its teacher, its size, and the time its features took."""

    name: str
    rows: int
    bytes: int
    seconds: float
    width: int


@dataclass(frozen=True)
class Report:
    """What `report` returns.

    Attributes:
        page: the HTML page.
        metrics: what metrics.json holds, by run.
        summary: a sentence per run, as on the page.
        warnings: what to look at before any number is believed.
    """

    page: Path
    metrics: dict[str, dict[str, Any]]
    summary: list[str]
    warnings: list[str]

    def __str__(self) -> str:
        return "\n".join([*(f"warning: {w}" for w in self.warnings), *self.summary, f"report: {self.page}"])


def report(
    root: Path,
    out: Path,
    runs: Sequence[str] | None = None,
    stores: Sequence[Stored] = (),
    params: Params | None = None,
) -> Report:
    """Compare the runs below `root`; write `index.html`, `metrics.json` and `curves.csv` to `out`.

    Args:
        root: the project's folder, with runs/, evaluations/, probes/ and data/, and maybe assessments/.
        out: where to write; made if it is not there.
        runs: the runs to compare, in the order to show them; None takes every folder of runs/. Name them where there
            is a params.yaml: the folder of a run that was removed from it stays on the disk.
        stores: the feature stores, for the table of time and bytes.
        params: the settings, to be printed on the page.

    Raises:
        UserError: a record is missing or damaged, or runs cannot be paired, because their seeds, splits or test rows
            are not the same.
    """
    if runs is None:
        runs = sorted(path.parent.name for path in (root / "runs").glob("[!.]*/run.json"))
    if not runs:
        raise UserError(f"{root / 'runs'}: there are no runs to report; run `aft train <run>` first")
    comparisons = compare(root, runs)
    outcomes = [outcome for comparison in comparisons for outcome in comparison.outcomes]
    teachers = dict.fromkeys(teacher for outcome in outcomes for teacher in outcome.run.teachers)
    probes = [load(Probe, root / "probes" / f"{name}.json", f"aft probe {name}") for name in teachers]
    manifest = load(Manifest, root / "data" / "manifest.json", "aft prepare")
    warnings = [warning for outcome in outcomes for warning in _warnings(outcome)]
    ranked = ranking(root, manifest.digest)
    costs = _costs(probes, stores, outcomes, ranked)
    page = _template().render(
        title=_title(comparisons, list(teachers)),
        subtitle=_subtitle(manifest, outcomes[0]),
        comparisons=comparisons,
        drawings=[_drawings(comparison, f"s{k}") for k, comparison in enumerate(comparisons)],
        recipes=[[_recipe(outcome) for outcome in comparison.outcomes] for comparison in comparisons],
        outcomes=outcomes,
        warnings=warnings,
        tests=sum(outcome.p is not None for outcome in outcomes),
        probes=probes,
        ranking=ranked,
        costs=costs,
        longest=max(cost["seconds"] for cost in costs) or 1.0,
        spent=_spent(costs),
        manifest=manifest,
        facts=_facts(manifest, outcomes[0]),
        origins=_origins(outcomes),
        params=params and {"source": params.source, "text": _yaml(params.values)},
    )
    metrics = {outcome.name: _flat(outcome) for outcome in outcomes}
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "index.html", page)
    _write(out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    _write(out / "curves.csv", _curves(outcomes))
    return Report(out / "index.html", metrics, [f"{o.name}: {sentence(o)}" for o in outcomes], warnings)


def _title(comparisons: Sequence[Comparison], teachers: Sequence[str]) -> str:
    students = listed([comparison.student.name for comparison in comparisons])
    return f"{students}, taught by {listed(teachers)}" if teachers else f"{students}, trained plainly"


def _subtitle(manifest: Manifest, outcome: Outcome) -> str:
    run, classes = outcome.run, count(len(manifest.classes))
    rows = f"{count(run.labelled)} labelled and {count(run.unlabelled)} unlabelled training rows"
    return f"{manifest.source.get('family', manifest.kind)}, {classes} classes, {rows}, {seeds(outcome)}"


def _flat(outcome: Outcome) -> dict[str, Any]:
    """A run's entry in metrics.json: accuracies and differences as shares of 1, and null for what is not known."""
    difference, gap = outcome.difference, outcome.gap
    return {
        "accuracy": outcome.accuracy,
        "standard_error": standard_error(outcome.accuracies),
        "macro_f1": _finite(outcome.mean("macro_f1")),
        "log_loss": _finite(outcome.mean("log_loss")),
        "difference": difference and difference.mean,
        "low": difference and difference.low,
        "high": difference and difference.high,
        "gap_closed": gap and gap.share,
        "weight": outcome.weight,
        "seconds": outcome.run.seconds,
    }


def _drawings(comparison: Comparison, name: str) -> dict[str, Any]:
    """The drawings of one student's runs; `name` begins the ids inside them."""
    drawn: dict[str, Any] = {"curves": [], "searches": [], "gates": []}

    def panel(kind: str, title: str, svg: str, note: str = "") -> None:
        drawn[kind].append({"title": title, "svg": svg, "note": note})

    limits = _limits(comparison)
    plain = _band(comparison.baseline) if comparison.baseline else None
    for number, outcome in enumerate(comparison.outcomes):
        own, candidates = f"{name}r{number}", outcome.run.candidates
        beside = None if outcome is comparison.baseline else plain
        along = figures.curve(_band(outcome), beside, limits, f"{own}c", f"{outcome.name} along training")
        panel("curves", outcome.name, along)
        if len(candidates) > 1:
            across = "weight" if outcome.run.methods else ""
            search = figures.search(across, *_search(outcome), f"{own}w", _searched(outcome))
            panel("searches", outcome.name, search, _edge(outcome))
        for k, (teacher, gates) in enumerate(outcome.gates.items()):
            falling = [sorted(values, reverse=True) for values in gates]
            sorted_gates = figures.gates(falling, f"{own}g{k}", f"gates of {outcome.name} for {teacher}")
            panel("gates", f"{outcome.name}, {teacher}", sorted_gates, _gate_facts(gates))
    if rows := [_dots(outcome) for outcome in comparison.outcomes if outcome.difference is not None]:
        told = ", ".join(f"{row.name} {row.mean:+.2f}" for row in rows)
        for kind, narrow in (("wide", False), ("narrow", True)):
            what = f"Points of accuracy over plain training: {told}"
            drawn[kind] = figures.differences(rows, f"{name}{kind}", what, narrow)
    return drawn


def _limits(comparison: Comparison) -> tuple[float, float]:
    """One accuracy axis, in percent, for all learning curves of a student."""
    shown = (*comparison.outcomes, *filter(None, [comparison.baseline]))
    points = [point for outcome in shown for point in outcome.curve]
    lowest = min(point.mean - (point.standard_error or 0.0) for point in points)
    highest = max(point.mean + (point.standard_error or 0.0) for point in points)
    margin = 0.05 * (highest - lowest) or 0.01
    return 100 * max(0.0, lowest - margin), 100 * min(1.0, highest + margin)


def _dots(outcome: Outcome) -> figures.Dots:
    difference = outcome.difference
    assert difference is not None
    interval = None
    if difference.low is not None and difference.high is not None and not outcome.identical:
        interval = (100 * difference.low, 100 * difference.high)
    return figures.Dots(
        name=outcome.name,
        seeds=[100 * x for x in outcome.differences],
        mean=100 * difference.mean,
        interval=interval,
        reference=100 * float(np.mean(outcome.references)) if outcome.references else None,
        quiet=outcome.control,
    )


def _band(outcome: Outcome) -> figures.Band:
    errors = [point.standard_error for point in outcome.curve]
    return figures.Band(
        steps=[point.step for point in outcome.curve],
        mean=[100 * point.mean for point in outcome.curve],
        error=None if None in errors else [100 * (error or 0.0) for error in errors],
    )


def _search(outcome: Outcome) -> tuple[list[str], list[figures.Tried]]:
    """The weights of a search in words, and its candidates line by line; without methods, settings are all there is."""
    run = outcome.run
    if not run.methods:
        ticks = [settings_label(candidate.settings) for candidate in run.candidates]
        scores = [[100 * score for score in candidate.reached] for candidate in run.candidates]
        chosen = [candidate.label for candidate in run.candidates].index(run.label)
        return ticks, [figures.Tried("", scores, chosen)]
    weights = sorted({candidate.weights for candidate in run.candidates})
    distinct = list({settings_label(c.settings): c.settings for c in run.candidates}.values())
    # A method of weight 0 has no settings, so its candidate belongs to every line that agrees with it on the others.
    lines = [settings for settings in distinct if not any(settings.items() < other.items() for other in distinct)]
    ringed = next(at for at, settings in enumerate(lines) if run.chosen_settings.items() <= settings.items())
    tried = []
    for number, settings in enumerate(lines):
        own = {c.weights: c for c in run.candidates if c.settings.items() <= settings.items()}
        scored = [[100 * x for x in own[at].reached] if at in own else None for at in weights]
        named = settings_label(settings)
        if len(run.methods) == 1:  # whose settings they are goes without saying
            named = named.replace(f"{run.methods[0].name}.", "")
        tried.append(figures.Tried(named, scored, weights.index(run.chosen) if number == ringed else None))
    return [label(at) for at in weights], tried


def _searched(outcome: Outcome) -> str:
    """What a search tried, in words: `0, 10, 100; dropout 0.5, 0.8; diverged: 100, dropout 0.5`."""
    candidates = outcome.run.candidates
    weights = list(dict.fromkeys(label(candidate.weights) for candidate in candidates if candidate.weights))
    tried: dict[str, list[str]] = {}
    for candidate in candidates:
        for key, value in candidate.settings.items():
            values = tried.setdefault(key.partition(".")[2], [])
            if str(value) not in values:
                values.append(str(value))
    told = [", ".join(weights), *(f"{key} {', '.join(of)}" for key, of in tried.items())]
    if lost := _lost(outcome):
        told.append(f"diverged: {lost}")
    return "; ".join(filter(None, told))


def _lost(outcome: Outcome) -> str:
    """The candidates that diverged, empty if none did."""
    return " and ".join(candidate.label for candidate in outcome.run.candidates if not candidate.reached)


def _recipe(outcome: Outcome) -> dict[str, str]:
    """What a run is: its methods with the settings that were changed, its teachers, what was tried."""
    methods = []
    for method in outcome.run.methods:
        settings = ", ".join(f"{key} {value}" for key, value in method.settings.items())
        methods.append(f"{method.name} ({settings})" if settings else method.name)
    return {
        "run": outcome.name,
        "methods": "; ".join(methods) or "none",
        "teachers": ", ".join(outcome.run.teachers) + (", rows shuffled" if outcome.control else ""),
        "tried": _searched(outcome) if len(outcome.run.candidates) > 1 else "",
    }


def _edge(outcome: Outcome) -> str:
    """Where the search may have stopped too early, could not stand aside, or lost candidates."""
    notes = []
    for k, method in enumerate(outcome.run.methods):
        tried = {candidate.weights[k] for candidate in outcome.run.candidates}
        chosen = outcome.run.chosen_settings.items()
        alike = [c.weights[k] for c in outcome.run.candidates if chosen <= c.settings.items()]
        if len(tried) > 1 and outcome.run.chosen[k] == max(alike):
            notes.append(f"{max(alike):g} is the largest weight tried for {method.name}; a larger one may do better.")
        if 0 not in tried:
            notes.append(f"0 was not among the weights, so {method.name} could not stand aside.")
    if lost := _lost(outcome):
        notes.append(f"Diverged, on one seed or more, and could not be chosen: {lost}.")
    return " ".join(notes)


def _gate_facts(gates: Sequence[Sequence[float]]) -> str:
    """How open the gates are, and whether the seeds agree on which."""
    values = np.asarray(gates, dtype=np.float64)  # [seeds, features]
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    text = f"{count(values.shape[1])} gates; median {middle:.2f}, the middle 80% from {low:.2f} to {high:.2f}."
    if len(values) < 2 or values.shape[1] < 3:
        return text
    ranks = stats.rankdata(values, axis=1)
    if (ranks.std(1) == 0).any():
        return f"{text} In some seed all gates are equal."
    agreement = np.corrcoef(ranks)[np.triu_indices(len(ranks), 1)].mean()
    return f"{text} Rank correlation between seeds: {percent(float(agreement) / 100)}."


def _warnings(outcome: Outcome) -> list[str]:
    if not outcome.collapsed:
        return []
    collapsed = ", ".join(map(str, outcome.collapsed))
    return [
        f"{outcome.name}: the student predicts one class only (seed {collapsed}). Its numbers tell of a collapse, "
        "not of a method; lower the weight or the learning rate, or normalise its features (LayerNorm)."
    ]


def _costs(
    probes: Sequence[Probe], stores: Sequence[Stored], outcomes: Sequence[Outcome], ranked: Ranking | None
) -> list[dict[str, Any]]:
    """Time and bytes, stage by stage."""
    costs: list[dict[str, Any]] = []

    def cost(stage: str, of: str, work: str, seconds: float, rate: str = "", **more: Any) -> None:
        costs.append({"stage": stage, "of": of, "work": work, "seconds": seconds, "rate": rate, "each": ""} | more)

    for store in stores:
        work = f"{count(store.rows)} rows of {count(store.width)} features"
        rate = f"{count(round(store.rows / store.seconds))} rows/s" if store.seconds else ""
        each = f"{count(round(store.bytes / store.rows))} bytes a row" if store.rows else ""
        cost("extract", store.name, work, store.seconds, rate, bytes=store.bytes, each=each)
    for probe in probes:
        cost("probe", probe.teacher, f"{len(probe.splits)} draws", probe.seconds)
    if ranked is not None:
        found = ranked.assessment
        work = f"{count(len(found.subsets))} subsets, {count(found.draws)} draws"
        cost("assess", ", ".join(teacher.name for teacher in found.teachers), work, found.seconds)
    for outcome in outcomes:
        run = outcome.run
        rate = f"{duration(run.seconds / run.trainings)} each" if run.trainings else ""
        cost("train", run.run, f"{count(run.trainings)} trainings of {count(run.steps)} steps", run.seconds, rate)
    for outcome in outcomes:
        evaluation = outcome.evaluation
        work = f"{len(evaluation.results)} students on {count(evaluation.test_rows)} rows"
        cost("evaluate", outcome.name, work, evaluation.seconds)
    return costs


def _spent(costs: Sequence[dict[str, Any]]) -> str:
    """The two stages in a sentence: what was paid once, and what every run costs."""
    text = f"All stages shown took {duration(sum(cost['seconds'] for cost in costs))}."
    if extraction := sum(cost["seconds"] for cost in costs if cost["stage"] == "extract"):
        text += f" The teachers ran once, for {duration(extraction)}; every training reads what they left."
    return text


def _facts(manifest: Manifest, outcome: Outcome) -> list[tuple[str, str]]:
    """The dataset in a few lines."""
    run, classes = outcome.run, count(len(manifest.classes))
    dropped = "; ".join(f"{reason}: {count(rows)}" for reason, rows in manifest.dropped.items() if rows)
    facts = {
        "source": ", ".join(f"{key} {value}" for key, value in manifest.source.items()),
        "rows": f"{count(manifest.rows)} in {classes} classes, {count(manifest.without_label)} without a label",
        "training": f"{count(run.labelled)} rows with their label, {count(run.unlabelled)} without",
        "test": f"{count(outcome.evaluation.test_rows)} rows",
        "draws": f"{count(manifest.splits)}, of which rows train, validate and test",
        "left out": f"{dropped}. Every row is listed in data/quarantine.csv." if dropped else "nothing",
        "notes": "; ".join(manifest.notes),
    }
    return [(term, fact) for term, fact in facts.items() if fact]


def _origins(outcomes: Sequence[Outcome]) -> list[list[tuple[str, str]]]:
    """Where the runs come from, as facts; runs of one origin share them."""
    origins: dict[str, list[str]] = {}
    for outcome in outcomes:
        origins.setdefault(json.dumps(outcome.run.provenance, sort_keys=True), []).append(outcome.name)
    shown = []
    for provenance, names in origins.items():
        origin = json.loads(provenance)
        changed = ", with uncommitted changes" if origin.get("changed") else ""
        versions = ", ".join(f"{package} {version}" for package, version in origin.get("versions", {}).items())
        facts = {
            "runs": listed(names),
            "commit": f"{origin['commit']}{changed}" if origin.get("commit") else "not in a git repository",
            "device": str(origin.get("device", "not recorded")),
            "versions": versions or "not recorded",
        }
        shown.append(list(facts.items()))
    return shown


def _curves(outcomes: Sequence[Outcome]) -> str:
    """Validation accuracy per run and step, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "step", "val_accuracy", "standard_error", "seeds"])
    for outcome in outcomes:
        for point in outcome.curve:
            writer.writerow([outcome.name, point.step, point.mean, point.standard_error, point.seeds])
    return file.getvalue()


def _finite(value: float) -> float | None:
    """None instead of what JSON cannot hold, such as the log loss of a student that diverged."""
    return value if isfinite(value) else None


def _write(path: Path, text: str) -> None:
    # DVC may have hard-linked the old file to its cache: replace it, never write into it.
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def _yaml(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = ("percent", "signed", "share", "number", "p_value", "count", "duration", "size")
    environment.filters |= {name: getattr(text, name) for name in written}
    environment.globals |= {"sentence": sentence, "lead": text.lead, "standard_error": standard_error, "mean": fmean}
    return environment.get_template("report.html.j2")
