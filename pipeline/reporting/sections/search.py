"""Choice on validation rows: the score of every weight and setting that was tried."""

from typing import Any

from pipeline.errors import count
from pipeline.reporting import figures
from pipeline.reporting.comparison import Comparison, Outcome
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.sections.runs import diverged, dropped, tried
from pipeline.reporting.text import heading, scaled
from pipeline.runs import label, settings_label


def context(inputs: ReportInputs) -> dict[str, Any] | None:
    """A panel for each run with several candidates, by student; None where nothing was searched."""
    several = len(inputs.comparisons) > 1
    blocks = [
        {
            "title": f"Choice on validation rows of {comparison.student.name}"
            if several
            else "Choice on validation rows",
            "panels": panels,
        }
        for number, comparison in enumerate(inputs.comparisons)
        if (panels := _panels(comparison, f"s{number}"))
    ]
    return {"blocks": blocks} if blocks else None


def _panels(comparison: Comparison, name: str) -> list[dict[str, str]]:
    panels = []
    for number, outcome in enumerate(comparison.outcomes):
        run = outcome.run
        if len(run.candidates) > 1:
            ticks, lines = candidates(outcome)
            axis, across = f"validation {heading(run.metric)}", "weight" if run.methods else ""
            title = f"Validation {run.metric.label} of {outcome.name} by candidate: {tried(outcome)}"
            svg = figures.search(ticks, lines, f"{name}w{number}", title, axis, across)
            panels.append({"title": outcome.name, "svg": svg, "note": _note(outcome)})
    return panels


def candidates(outcome: Outcome) -> tuple[list[str], list[figures.Tried]]:
    """The weights of a search as text, and its candidates by settings. Without methods there are settings alone."""
    run = outcome.run

    def scores(of: tuple[float, ...]) -> list[float]:
        return [scaled(value, run.metric) for value in of]

    if not run.methods:
        ticks = [settings_label(candidate.settings) for candidate in run.candidates]
        chosen = [candidate.settings for candidate in run.candidates].index(run.chosen_settings)
        fewer = [at for at, candidate in enumerate(run.candidates) if candidate.dropped]
        return ticks, [figures.Tried("", [scores(candidate.finite) for candidate in run.candidates], chosen, fewer)]
    weights = sorted({candidate.weights for candidate in run.candidates})
    distinct = list({settings_label(c.settings): c.settings for c in run.candidates}.values())
    # A method of weight 0 has no settings, so its candidate belongs to every line that agrees with it on the others.
    lines = [settings for settings in distinct if not any(settings.items() < other.items() for other in distinct)]
    ringed = next(at for at, settings in enumerate(lines) if run.chosen_settings.items() <= settings.items())
    found = []
    for number, settings in enumerate(lines):
        own = {c.weights: c for c in run.candidates if c.settings.items() <= settings.items()}
        scored = [scores(own[at].finite) if at in own else None for at in weights]
        fewer = [number for number, at in enumerate(weights) if at in own and own[at].dropped]
        named = settings_label(settings)
        if len(run.methods) == 1:
            # The name of the only method is clear.
            named = named.replace(f"{run.methods[0].name}.", "")
        found.append(figures.Tried(named, scored, weights.index(run.chosen) if number == ringed else None, fewer))
    return [label(at) for at in weights], found


def _note(outcome: Outcome) -> str:
    """Where the search may have stopped too early, lacks weight 0, or dropped or lost candidates."""
    notes = []
    for k, method in enumerate(outcome.run.methods):
        weights = {candidate.weights[k] for candidate in outcome.run.candidates}
        chosen = outcome.run.chosen_settings.items()
        alike = [c.weights[k] for c in outcome.run.candidates if chosen <= c.settings.items()]
        if len(weights) > 1 and outcome.run.chosen[k] == max(alike):
            notes.append(f"{max(alike):g} is the largest weight tried for {method.name}; a larger one may do better.")
        if 0 not in weights:
            notes.append(f"Weight 0 was not tried for {method.name}, so plain training could not be selected.")
    if fewer := dropped(outcome):
        seeds = count(len(outcome.run.seeds), "seed")
        notes.append(
            f"Crosses were clearly worse on the first of {seeds} and not trained on the others; "
            f"they are means of those seeds alone, and not compared: {fewer}."
        )
    if lost := diverged(outcome):
        notes.append(f"Diverged (NaN or inf) on one seed or more, and could not be chosen: {lost}.")
    return " ".join(notes)
