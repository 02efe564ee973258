"""Sentences about runs, which claim no more than their seeds show."""

from pipeline.errors import count
from pipeline.functional.statistics import Share, standard_error
from pipeline.reporting.comparison import Comparison, Outcome
from pipeline.reporting.text import (
    change,
    change_unit,
    counted,
    interval,
    listed,
    p_value,
    score,
    score_with_unit,
    share,
)

_COUNTED = {
    "gain": ("is", "are", "better by more than the noise"),
    "noise": ("is", "are", "within the noise"),
    "zero": ("has", "have", "weight 0 selected (same as plain training)"),
    "loss": ("is", "are", "worse by more than the noise"),
    "single": ("has", "have", "one seed only, which shows nothing"),
    "unpaired": ("has", "have", "nothing to be compared with"),
}


def lead(comparison: Comparison) -> str:
    """The scores of plain training and of the teachers' linear probes, and how many runs are better or worse."""
    baseline, metric = comparison.baseline, comparison.metric
    student = comparison.student.name
    alone = not comparison.student.trains
    if baseline is None:
        why, what = "has a method", "with"
        if alone:
            why, what = "has no steps of training", "of another student, on the same seeds, with"
            if comparison.student.reads == "features":
                why = "learns from the teachers' own features"
        return (
            f"Every run of {student} {why}, so there is nothing to compare them with. "
            f"Add a run {what} `methods: []`, which is plain training."
        )
    error = standard_error(baseline.scores)
    spread = f"standard error {score(error, metric)}, " if error is not None else ""
    text = (
        f"Plain training of {baseline.run.student.name} has a test {metric.label} of "
        f"{score_with_unit(baseline.score, metric)} on {counted(baseline.evaluation.test_rows, 'row')} "
        f"({spread}{seeds(baseline)})"
    )
    if references := comparison.references:
        text += ", " + listed([f"{probe(of.name)} {score_with_unit(of.mean, metric)}" for of in references])
    verdicts = [outcome.verdict for outcome in comparison.others if not outcome.control and outcome.verdict != "plain"]
    if not verdicts:
        return f"{text}."
    kind = f"of {student}" if alone else "with a method"
    if len(verdicts) == 1:
        one, _, rest = _COUNTED[verdicts[0]]
        return f"{text}. The one run {kind} {one} {rest}."
    parts = []
    for verdict, (one, many, rest) in _COUNTED.items():
        if times := verdicts.count(verdict):
            parts.append(f"{times} {one if times == 1 else many} {rest}")
    return f"{text}. Of {count(len(verdicts), 'run')} {kind}, {listed(parts)}."


def sentence(outcome: Outcome) -> str:
    """A sentence on a run against plain training."""
    metric, difference = outcome.metric, outcome.difference
    if difference is None:
        own = f"{metric.label} {score_with_unit(outcome.score, metric)}"
        return f"plain training, {own}." if outcome.plain else f"{own}, with nothing to compare it with."
    against = f"{change(difference.mean, metric)} {change_unit(metric)} against plain training"
    if bounds := interval(difference.low, difference.high, lambda value: score(value, metric)):
        against += f" (95% interval {bounds}; better on {difference.wins} of {counted(difference.n, 'seed')})"
    match outcome.verdict:
        case "zero" if outcome.identical:
            text = "weight 0 selected (same as plain training)."
        case "zero":
            text = f"weight 0 selected, which should be the same as plain training, but {against}."
        case "single":
            text = f"{against} on the only seed, which shows nothing: run more seeds."
        case "noise":
            text = f"within the noise: {against}."
        case _:
            text = f"{against}{_closing(outcome)}."
            if outcome.p is not None and outcome.p > 0.05:
                text += f" Weak evidence: p = {p_value(outcome.p)} after correction for all comparisons on this page."
    if not outcome.control:
        return text
    remark = {
        "gain": " It should not gain: part of what the methods gain may not come from what the teachers know.",
        "noise": " As expected, it gains nothing beyond the noise.",
        "single": "",
    }.get(outcome.verdict, " As expected, it does not gain.")
    return f"a control, trained with the features of other rows. {text[0].upper()}{text[1:]}{remark}"


def _closing(outcome: Outcome) -> str:
    gap = outcome.gap
    if gap is None or (gap.share is not None and gap.share <= 0):
        return ""
    if gap.share is None:
        return f"; {gap.note}"
    return f"; closes {share(gap.share)}% of the gap to {probe(outcome.teachers)} ({_within(gap)})"


def _within(gap: Share) -> str:
    bounds = interval(gap.low, gap.high, share)
    return f"95% interval {bounds}%" if bounds else gap.note


def probe(teachers: str) -> str:
    """The reference of runs, by name: `the linear probe of minilm`, `the linear probes of lite0 + lite2`."""
    return f"the linear probe{'s' if ' + ' in teachers else ''} of {teachers}"


def seeds(outcome: Outcome) -> str:
    """How many seeds: `5 seeds`, `1 seed`."""
    return counted(len(outcome.scores), "seed")
