"""How the report writes numbers: scores of any metric, differences, p-values, counts, times and sizes."""

from collections.abc import Callable, Sequence
from math import floor, isfinite, log10

from pipeline.records import Metric


def scaled(value: float, metric: Metric) -> float:
    """A score as it is shown: percent instead of a share of 1 where the unit is `%`."""
    return 100 * value if metric.unit == "%" else value


def score(value: float | None, metric: Metric) -> str:
    """A score without its unit: `65.38` for a share of 1 in percent, three digits otherwise."""
    return percent(value) if metric.unit == "%" else number(value)


def score_with_unit(value: float | None, metric: Metric) -> str:
    """A score with its unit: `65.38%`, `1.23 kWh`."""
    if metric.unit == "%":
        return f"{score(value, metric)}%"
    return f"{score(value, metric)} {metric.unit}".rstrip()


def change(value: float | None, metric: Metric) -> str:
    """A difference of scores with its sign: `+1.83` points for a share of 1 in percent, `−0.12`."""
    if metric.unit == "%":
        return signed(value)
    written = number(value)
    return f"+{written}" if value is not None and value > 0 and written not in ("0", "—") else written


def change_unit(metric: Metric) -> str:
    """The unit of a difference in a sentence: `points`, `kWh`, or the metric's label where it has no unit."""
    return "points" if metric.unit == "%" else metric.unit or f"in {metric.label}"


def heading(metric: Metric) -> str:
    """A metric as the title of a column or an axis: `accuracy, %`, `log loss`."""
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def interval(low: float | None, high: float | None, write: Callable[[float | None], str]) -> str:
    """`0.82 to 2.34`; empty where there is no interval."""
    return "" if low is None or high is None else f"{write(low)} to {write(high)}"


def counted(value: int, singular: str, plural: str = "") -> str:
    """A number of things: `1 seed`, `5 seeds`, `1 class`, `3 classes` with the plural given."""
    return f"{count(value)} {singular if value == 1 else plural or singular + 's'}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: `a`, `a and b`, `a, b and c`."""
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
    """A whole number with a comma between thousands: `5,200`."""
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


def short_duration(seconds: float | None) -> str:
    """A short time, such as that of one row: `6.05 ms`, `230 µs`, `1.2 s`."""

    def write(x: float) -> str:
        if x >= 1 or x == 0:
            return f"{number(x)} s"
        return f"{number(1e3 * x)} ms" if x >= 1e-3 else f"{number(1e6 * x)} µs"

    return _written(seconds, write)


def size(value: int) -> str:
    """Bytes in decimal units: `4.61 MB`."""
    power = min(int(log10(value) // 3), 4) if value >= 1 else 0
    return f"{number(value / 1000**power)} {['bytes', 'kB', 'MB', 'GB', 'TB'][power]}"


def _written(value: float | None, write: Callable[[float], str]) -> str:
    """A dash for a value that is None or not finite, and a true minus sign."""
    return "—" if value is None or not isfinite(value) else write(value).replace("-", "\N{MINUS SIGN}")


def _round(value: float, places: int) -> float:
    # Adding 0 turns -0.0 into 0.0.
    return round(value, places) + 0.0
