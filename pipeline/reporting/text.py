"""Numbers and verdicts in words: what may be said of a run, and how its numbers are written."""

from collections.abc import Callable, Sequence
from math import floor, isfinite, log10

from pipeline.functional.statistics import Share, standard_error
from pipeline.reporting.comparison import Comparison, Outcome

_FARED = {
    "gain": ("is", "are", " above it by more than the noise"),
    "noise": ("is", "are", " inside the noise"),
    "aside": ("stood", "stood", " aside"),
    "loss": ("is", "are", " below it by more than the noise"),
    "single": ("has", "have", " one seed only, from which nothing follows"),
}


def lead(comparison: Comparison) -> str:
    """Where plain training and the teachers' probes stand, and how the other runs fared."""
    first, baseline = comparison.outcomes[0], comparison.baseline
    student, rows = comparison.student.name, count(first.evaluation.test_rows)
    features = comparison.student.reads == "features"
    if baseline is None:
        learns, to_add = "has a method", "with"
        if features:
            learns, to_add = "learns from the teachers' own features", "of another student, on the same seeds, with"
        return (
            f"Every run of {student} {learns}, so there is nothing to compare them with. "
            f"Add a run {to_add} `methods: []`, which is plain training."
        )
    trained = baseline.run.student.name
    text = f"Plain training of {trained} gets {percent(baseline.accuracy)}% of {rows} test rows right"
    error = standard_error(baseline.accuracies)
    text += f" (standard error {percent(error)}, {seeds(baseline)})" if error is not None else f" ({seeds(baseline)})"
    for reference in comparison.references:
        text += f", the probe of {reference.name} {percent(reference.mean)}%"
    verdicts = [outcome.verdict for outcome in comparison.outcomes if outcome is not baseline and not outcome.control]
    if not verdicts:
        return f"{text}."
    what = f"of {student}" if features else "with a method"
    if len(verdicts) == 1:
        one, _, rest = _FARED[verdicts[0]]
        return f"{text}. The one run {what} {one}{rest}."
    parts = []
    for verdict, (one, many, rest) in _FARED.items():
        if times := verdicts.count(verdict):
            parts.append(f"{times} {one if times == 1 else many}{rest}")
    return f"{text}. Of {len(verdicts)} runs {what}, {listed(parts)}."


def sentence(outcome: Outcome) -> str:
    """What may be said of a run against plain training: no more than its seeds carry."""
    difference = outcome.difference
    if difference is None:
        right = f"{percent(outcome.accuracy)}% of the test rows right"
        return f"plain training, {right}." if outcome.plain else f"{right}, with nothing to compare it with."
    points = f"{signed(difference.mean)} points against plain training"
    if difference.low is not None and difference.high is not None:
        interval = f"{percent(difference.low)} to {percent(difference.high)}"
        points += f" (95% interval {interval}; better on {difference.wins} of {difference.n} seeds)"
    match outcome.verdict:
        case "aside" if outcome.identical:
            text = "stood aside: validation chose weight 0, which is plain training."
        case "aside":
            text = f"stood aside: validation chose weight 0, which ought to be plain training; yet {points}."
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
    moral = {
        "gain": " It ought not to gain: part of what methods gain here may not come from what the teachers know.",
        "noise": " As expected, it gains nothing beyond the noise.",
        "single": "",
    }.get(outcome.verdict, " As expected, it does not gain.")
    return f"a control, whose teachers tell of the wrong rows. {text[0].upper()}{text[1:]}{moral}"


def _closing(gap: Share | None) -> str:
    if gap is None or (gap.share is not None and gap.share <= 0):
        return ""
    if gap.share is None:
        return f"; {gap.note}"
    within = gap.note if gap.low is None or gap.high is None else f"{share(gap.low)} to {share(gap.high)}%"
    return f"; closes {share(gap.share)}% of the gap to the probe ({within})"


def seeds(outcome: Outcome) -> str:
    """How many seeds: `5 seeds`, `one seed`."""
    many = len(outcome.accuracies)
    return "one seed" if many == 1 else f"{count(many)} seeds"


def listed(names: Sequence[str]) -> str:
    """Names in a row: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def percent(value: float | None) -> str:
    """A share of 1 as percent with two decimals: 0.6538 is `65.38`."""
    return _written(value, lambda x: f"{_round(100 * x, 2):.2f}")


def signed(value: float | None) -> str:
    """A difference of shares as points with its sign: 0.0183 is `+1.83`."""
    return _written(value, lambda x: f"{rounded:+.2f}" if (rounded := _round(100 * x, 2)) else "0.00")


def share(value: float | None) -> str:
    """A share of 1 as whole percent: 0.42 is `42`."""
    return _written(value, lambda x: f"{_round(100 * x, 0):.0f}")


def number(value: float | None) -> str:
    """A number with three significant digits: `0.0571`, `7.9`, `1,230`."""

    def write(x: float) -> str:
        places = 2 - floor(log10(abs(x))) if x else 0
        short = f"{round(x, places):,.{max(places, 0)}f}"
        return short.rstrip("0").rstrip(".") if "." in short else short

    return _written(value, write)


def p_value(value: float | None) -> str:
    """A p-value: two decimals, three below 0.1, `< 0.001` below that."""
    return _written(value, lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}")


def count(value: int) -> str:
    """A whole number with thousands set apart: `5,200`."""
    return f"{value:,}"


def duration(seconds: float | None) -> str:
    """Time: `0.8 s`, `31 s`, `2 min 10 s`, `1 h 05 min`."""

    def write(x: float) -> str:
        if 0 < x < 0.05:
            return "< 0.1 s"
        if x < 9.95:
            return f"{x:.1f} s"
        minutes, rest = divmod(round(x), 60)
        hours, left = divmod(minutes, 60)
        return f"{hours} h {left:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

    return _written(seconds, write)


def size(value: int) -> str:
    """Bytes in decimal units: `4.61 MB`."""
    power = min(int(log10(value) // 3), 4) if value >= 1 else 0
    return f"{number(value / 1000**power)} {['bytes', 'kB', 'MB', 'GB', 'TB'][power]}"


def _written(value: float | None, write: Callable[[float], str]) -> str:
    """A dash for what is not known or not finite, and a true minus sign."""
    return "—" if value is None or not isfinite(value) else write(value).replace("-", "\N{MINUS SIGN}")


def _round(value: float, places: int) -> float:
    return round(value, places) + 0.0  # adding 0 turns -0.0 into 0.0
