"""The report: what the runs show, said as carefully as their seeds allow.

Writes one self-contained page, `metrics.json` for `dvc metrics show` and `curves.csv` for `dvc plots show`. Equal
inputs give equal bytes.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from pydantic import Field
from scipy import stats

from pipeline import figures
from pipeline.comparison import Comparison, Outcome, Record, compare, load
from pipeline.errors import UserError
from pipeline.metrics import Share, standard_error
from pipeline.params import Params


class ProbeSplit(Record):
    """A teacher's probe on one draw of the splits."""

    split: int
    strength: float
    val_accuracy: float
    test_accuracy: float
    train_rows: int


class Probe(Record):
    """probes/<teacher>.json."""

    teacher: str
    splits: tuple[ProbeSplit, ...] = Field(min_length=1)
    seconds: float


class Manifest(Record):
    """data/manifest.json, as far as the report tells of it."""

    rows: int
    classes: tuple[str, ...]
    dropped: dict[str, int] = Field(default_factory=dict)
    source: dict[str, Any] = Field(default_factory=dict)


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
        root: the project's folder, with runs/, evaluations/, probes/ and data/.
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
        runs = sorted(path.parent.name for path in (root / "runs").glob("*/run.json"))
    if not runs:
        raise UserError(f"{root / 'runs'}: there are no runs to report; run `aft train <run>` first")
    comparisons = compare(root, runs)
    outcomes = [outcome for comparison in comparisons for outcome in comparison.outcomes]
    teachers = dict.fromkeys(teacher for outcome in outcomes for teacher in outcome.run.teachers)
    probes = [load(Probe, root / "probes" / f"{name}.json", f"aft probe {name}") for name in teachers]
    warnings = [warning for outcome in outcomes for warning in _warnings(outcome)]
    page = _environment().get_template("report.html.j2").render(
        comparisons=comparisons,
        outcomes=outcomes,
        warnings=warnings,
        tests=sum(outcome.p is not None for outcome in outcomes),
        probes=probes,
        manifest=load(Manifest, root / "data" / "manifest.json", "aft prepare"),
        stores=stores,
        drawings=[_drawings(comparison, f"s{number}") for number, comparison in enumerate(comparisons)],
        costs=_costs(probes, stores, outcomes),
        origins=_origins(outcomes),
        params=params and {"source": params.source, "text": _yaml(params.values)},
    )  # fmt: skip
    metrics = {outcome.name: flat(outcome) for outcome in outcomes}
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "index.html", page)
    _write(out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    _write(out / "curves.csv", _curves(outcomes))
    return Report(out / "index.html", metrics, [f"{o.name}: {sentence(o)}" for o in outcomes], warnings)


def sentence(outcome: Outcome) -> str:
    """What may be said of a run against plain training of its student: no more than its seeds carry."""
    difference = outcome.difference
    right = f"{percent(outcome.accuracy)} % of the test rows right"
    if difference is None:
        if not outcome.run.methods:
            return f"plain training, {right}."
        return f"{right}; there is no run without methods of this student to compare it with."
    points = f"{signed(difference.mean)} points against plain training"
    if difference.low is not None and difference.high is not None:
        interval = f"{percent(difference.low)} to {percent(difference.high)}"
        points += f" (95 % interval {interval}; better on {difference.wins} of {difference.n} seeds)"
    match outcome.verdict:
        case "aside":
            text = f"stood aside: validation chose weight 0, which is plain training; {points}."
        case "single":
            text = f"{points} on the one seed there is, from which nothing follows: run more seeds."
        case "noise":
            text = f"inside the noise: {points}."
        case _:
            text = f"{points}{_closing(outcome.gap)}."
            if outcome.p is not None and outcome.p > 0.05:
                text += f" Less sure than it looks: p = {p_value(outcome.p)} once all comparisons here are allowed for."
    if not outcome.control:
        return text
    if outcome.verdict == "gain":
        moral = "It ought not to gain: part of what the methods gain does not come from what the teachers know."
    else:
        moral = "As expected, nothing is gained from teachers that know nothing."
    told = text[0].upper() + text[1:]
    return f"a control, whose teachers' rows are shuffled and so say nothing about any row. {told} {moral}"


def _closing(gap: Share | None) -> str:
    if gap is None or (gap.share is not None and gap.share <= 0):
        return ""
    if gap.share is None:
        return f"; {gap.note}"
    return f"; closes {share(gap.share)} % of the gap to its teachers' probe ({_range(gap)})"


def _range(gap: Share) -> str:
    if gap.low is None or gap.high is None:
        return gap.note
    return f"{share(gap.low)} to {share(gap.high)} %"


def flat(outcome: Outcome) -> dict[str, Any]:
    """A run's line of metrics.json. Accuracies and differences are shares of 1; what is not known is null."""
    difference, gap = outcome.difference, outcome.gap
    return {
        "accuracy": outcome.accuracy,
        "standard_error": standard_error(outcome.accuracies),
        "difference": difference and difference.mean,
        "low": difference and difference.low,
        "high": difference and difference.high,
        "p": outcome.p,
        "wins": difference and difference.wins,
        "seeds": len(outcome.accuracies),
        "gap_closed": gap and gap.share,
        "gap_low": gap and gap.low,
        "gap_high": gap and gap.high,
        "macro_f1": _mean(result.macro_f1 for result in outcome.evaluation.results),
        "log_loss": _mean(result.log_loss for result in outcome.evaluation.results),
        "weight": outcome.weight,
        "verdict": outcome.verdict,
        "seconds": outcome.run.seconds,
    }


def _drawings(comparison: Comparison, name: str) -> dict[str, Any]:
    """The drawings of one student's runs; `name` begins the ids inside them."""
    compared = [outcome for outcome in comparison.outcomes if outcome.difference is not None]
    rows = [_dots(outcome) for outcome in compared]
    label = "Differences to plain training, in points: " + ", ".join(f"{row.name} {row.mean:+.2f}" for row in rows)
    panels: dict[str, list[dict[str, Any]]] = {"curves": [], "searches": [], "gates": []}
    points = [point for outcome in comparison.outcomes for point in outcome.curve]
    lowest = min(point.mean - (point.standard_error or 0) for point in points)
    highest = max(point.mean + (point.standard_error or 0) for point in points)
    margin = 0.05 * (highest - lowest) or 0.01
    limits = (100 * max(0.0, lowest - margin), 100 * min(1.0, highest + margin))
    for number, outcome in enumerate(comparison.outcomes):
        own = f"{name}r{number}"
        plain = comparison.baseline if outcome is not comparison.baseline else None
        drawn = figures.curve(
            _band(outcome), None if plain is None else _band(plain), limits, f"{own}c", f"{outcome.name} along training"
        )
        panels["curves"].append({"run": outcome.name, "svg": drawn})
        candidates = outcome.run.candidates
        if len(candidates) > 1:
            weights = ["+".join(f"{weight:g}" for weight in candidate.weights) for candidate in candidates]
            scores = [[100 * score for score in candidate.val_accuracy] for candidate in candidates]
            chosen = [candidate.weights for candidate in candidates].index(outcome.run.chosen)
            drawn = figures.search(weights, scores, chosen, f"{own}w", f"{outcome.name} by weight")
            panels["searches"].append({"run": outcome.name, "svg": drawn, "note": _edge(outcome)})
        for teacher, seeds in outcome.gates.items():
            falling = [sorted(gates, reverse=True) for gates in seeds]
            drawn = figures.gates(falling, f"{own}g{len(panels['gates'])}", f"gates of {outcome.name} for {teacher}")
            note = _gate_facts(seeds)
            panels["gates"].append({"run": outcome.name, "teacher": teacher, "svg": drawn, "note": note})
    if not rows:
        return panels
    wide, narrow = (figures.differences(rows, f"{name}d{n:d}", label, narrow=n) for n in (False, True))
    return panels | {"wide": wide, "narrow": narrow}


def _dots(outcome: Outcome) -> figures.Dots:
    difference = outcome.difference
    assert difference is not None
    return figures.Dots(
        name=outcome.name,
        seeds=[100 * x for x in outcome.differences],
        mean=100 * difference.mean,
        low=None if difference.low is None else 100 * difference.low,
        high=None if difference.high is None else 100 * difference.high,
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


def _edge(outcome: Outcome) -> str:
    """Where the search may have stopped too early, or could not stand aside."""
    notes = []
    for k, method in enumerate(outcome.run.methods):
        tried = sorted({candidate.weights[k] for candidate in outcome.run.candidates})
        if len(tried) > 1 and outcome.run.chosen[k] == tried[-1]:
            notes.append(f"{tried[-1]:g} is the largest weight tried for {method.name}; a larger one may do better.")
        if 0 not in tried:
            notes.append(f"0 was not among the weights, so {method.name} could not stand aside.")
    return " ".join(notes)


def _gate_facts(seeds: Sequence[Sequence[float]]) -> str:
    """How open the gates are, and whether the seeds agree on which."""
    values = np.asarray(seeds, dtype=np.float64)  # [seeds, features]
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    text = f"{values.shape[1]:,} gates; median {middle:.2f}, the middle 80 % from {low:.2f} to {high:.2f}."
    if len(values) < 2 or values.shape[1] < 3:
        return text
    ranks = stats.rankdata(values, axis=1)
    if (ranks.std(1) == 0).any():
        return f"{text} In some seed all gates are equal."
    agreement = np.corrcoef(ranks)[np.triu_indices(len(ranks), 1)].mean()
    return f"{text} Rank correlation between seeds: {number(float(agreement))}."


def _warnings(outcome: Outcome) -> list[str]:
    if not outcome.collapsed:
        return []
    seeds = ", ".join(map(str, outcome.collapsed))
    return [
        f"{outcome.name}: the student predicts one class only (seed {seeds}). Its numbers tell of a collapse, not of a "
        "method; lower the weight or the learning rate, or give the student's feature a LayerNorm."
    ]


def _costs(probes: Sequence[Probe], stores: Sequence[Stored], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Time and bytes, stage by stage."""
    costs: list[dict[str, Any]] = []
    for store in stores:
        work = f"{count(store.rows)} rows of {count(store.width)} features"
        rate = f"{count(round(store.rows / store.seconds))} rows/s" if store.seconds else ""
        costs.append({"stage": "extract", "of": store.name, "work": work, "rate": rate, "seconds": store.seconds})
        each = f"{store.bytes / store.rows:,.0f} bytes a row" if store.rows else ""
        costs[-1] |= {"bytes": store.bytes, "each": each}
    for probe in probes:
        work = f"{len(probe.splits)} draws of the splits"
        costs.append({"stage": "probe", "of": probe.teacher, "work": work, "seconds": probe.seconds})
    for outcome in outcomes:
        run = outcome.run
        work = f"{count(run.trainings)} trainings of {count(run.steps)} steps"
        rate = f"{run.seconds / run.trainings:.2g} s each" if run.trainings else ""
        costs.append({"stage": "train", "of": run.run, "work": work, "rate": rate, "seconds": run.seconds})
    for outcome in outcomes:
        work = f"{len(outcome.accuracies)} students on {count(outcome.evaluation.test_rows)} rows"
        seconds = outcome.evaluation.seconds
        costs.append({"stage": "evaluate", "of": outcome.name, "work": work, "seconds": seconds})
    return costs


def _origins(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Where the runs come from; runs of one origin share an entry."""
    origins: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        key = json.dumps(outcome.run.provenance, sort_keys=True)
        origins.setdefault(key, {"runs": [], **outcome.run.provenance})["runs"].append(outcome.name)
    return list(origins.values())


def _curves(outcomes: Sequence[Outcome]) -> str:
    """Validation accuracy per run and step, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "step", "val_accuracy", "standard_error", "seeds"])
    for outcome in outcomes:
        for point in outcome.curve:
            writer.writerow([outcome.name, point.step, point.mean, point.standard_error, point.seeds])
    return file.getvalue()


def _mean(values: Iterable[float]) -> float | None:
    """The mean, None if it is not a number: a diverged student has no log loss that JSON could hold."""
    mean = float(np.mean(list(values)))
    return mean if isfinite(mean) else None


def _write(path: Path, text: str) -> None:
    # DVC may have hard-linked the old file to its cache: replace it, never write into it.
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def _yaml(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def percent(value: float | None) -> str:
    """A share of 1 as percent with two decimals: 0.6538 is `65.38`."""
    return _digits(value, lambda x: f"{_round(100 * x, 2):.2f}")


def signed(value: float | None) -> str:
    """A difference of shares as points with its sign: 0.0183 is `+1.83`."""
    return _digits(value, lambda x: f"{rounded:+.2f}" if (rounded := _round(100 * x, 2)) else "0.00")


def share(value: float | None) -> str:
    """A share of 1 as whole percent: 0.42 is `42`."""
    return _digits(value, lambda x: f"{_round(100 * x, 0):.0f}")


def number(value: float | None) -> str:
    """A number with three significant digits: `0.0571`, `7.9`, `1,230`."""

    def write(x: float) -> str:
        places = 2 - floor(log10(abs(x))) if x else 0
        short = f"{round(x, places):,.{max(places, 0)}f}"
        return short.rstrip("0").rstrip(".") if "." in short else short

    return _digits(value, write)


def p_value(value: float | None) -> str:
    """A p-value: two decimals, three where it matters, `< 0.001` below that."""
    return _digits(value, lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}")


def count(value: int) -> str:
    """A whole number with thousands set apart: `5,200`."""
    return f"{value:,}"


def duration(seconds: float | None) -> str:
    """Time: `0.8 s`, `31 s`, `2 min 10 s`, `1 h 05 min`."""

    def write(x: float) -> str:
        if x < 10:
            return f"{x:.1f} s"
        minutes, rest = divmod(round(x), 60)
        hours, left = divmod(minutes, 60)
        return f"{hours} h {left:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

    return _digits(seconds, write)


def size(value: int) -> str:
    """Bytes in decimal units: `4.61 MB`."""
    power = min(int(log10(value) // 3), 4) if value >= 1 else 0
    return f"{number(value / 1000**power)} {['B', 'kB', 'MB', 'GB', 'TB'][power]}"


def _digits(value: float | None, write: Callable[[float], str]) -> str:
    """A dash for what is not known or not finite, and a true minus sign."""
    return "—" if value is None or not isfinite(value) else write(value).replace("-", "\N{MINUS SIGN}")


def _round(value: float, places: int) -> float:
    return round(value, places) + 0.0  # adding 0 turns -0.0 into 0.0


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {f.__name__: f for f in (percent, signed, share, number, p_value, count, duration, size)}
    environment.globals |= {"sentence": sentence, "standard_error": standard_error}
    return environment
