"""Which sources to use, and why: the smallest subset whose score is within the noise of the best one.

Only validation scores and costs count. Test scores are in the same records and are not used.
"""

from collections.abc import Callable, Sequence

from pipeline.errors import count
from pipeline.functional.statistics import Paired
from pipeline.records import Metric, PairRecord, SubsetRecord

Key = tuple[float, int, float, tuple[str, ...]]


def ranking_key(metric: Metric) -> Callable[[SubsetRecord], Key]:
    """Sorts subsets from the best to the worst: by validation score, then smaller first, then fewer bytes per row."""

    def key(subset: SubsetRecord) -> Key:
        score = _score(subset, metric)
        worse = -score if metric.higher_is_better else score
        return worse, len(subset.sources), subset.bytes_per_row, tuple(sorted(subset.sources))

    return key


def recommend(
    subsets: Sequence[SubsetRecord], pairs: Sequence[PairRecord], metric: Metric
) -> tuple[SubsetRecord, tuple[str, ...]]:
    """The subset to use, and the reasons in one to three sentences.

    Among the subsets within the noise of the best one, the best of those with the fewest sources.
    """
    ranked = sorted(subsets, key=ranking_key(metric))
    best = ranked[0]
    inside = [subset for subset in ranked if subset.inside_noise]
    chosen = min(inside, key=lambda subset: len(subset.sources))  # min takes the first, which is the best of its size
    if len(subsets) == 1:
        knn = chosen.mean("knn_val", metric.name)
        return chosen, (
            f"{chosen.name} is the only source, so there is nothing to choose: the validation {metric.label} of its "
            f"probe is {_shown(_score(chosen, metric), metric)}, of its nearest neighbours "
            f"{'unknown' if knn is None else _shown(knn, metric)}.",
        )
    reasons = [_standing(chosen, best, ranked, metric), _second(ranked, pairs, metric), _cost(chosen, best, inside)]
    return chosen, tuple(reason for reason in reasons if reason)


def zero_shot(source: str, score: float | None, metric: Metric) -> str:
    """A sentence about a source's outputs for the classes, from their names alone."""
    shown = "unknown" if score is None else _shown(score, metric)
    return f"Zero-shot, without any label, the validation {metric.label} of {source} is {shown}."


def _standing(chosen: SubsetRecord, best: SubsetRecord, ranked: Sequence[SubsetRecord], metric: Metric) -> str:
    """Its score, compared with that of the best subset, or of the best smaller one."""
    alone = " alone" if len(chosen.sources) == 1 else ""
    score = _shown(_score(chosen, metric), metric)
    text = f"Use {chosen.name}{alone}: the validation {metric.label} of its probe is {score}, "
    if chosen.against_best is not None:
        return f"{text}within the noise of the best, {best.name} ({_points(chosen.against_best, metric)})."
    text += f"the best of {count(len(ranked), 'subset')}"
    smaller = [subset for subset in ranked if len(subset.sources) < len(chosen.sources)]
    if not smaller or smaller[0].against_best is None:
        return f"{text}."
    text += ", and no smaller one is within the noise of it"
    if smaller[0].sources == chosen.best_part and len(chosen.sources) == 2:
        return f"{text}."  # the next sentence gives their difference
    return f"{text} (the next is {smaller[0].name}: {_points(smaller[0].against_best, metric)})."


def _second(ranked: Sequence[SubsetRecord], pairs: Sequence[PairRecord], metric: Metric) -> str:
    """What the best pair gains over its better source, and whether both are wrong on the same rows."""
    pair = next(subset for subset in ranked if len(subset.sources) == 2)
    assert pair.gain is not None and pair.best_part is not None
    helps = pair.gain.mean > 0 if metric.higher_is_better else pair.gain.mean < 0
    if pair.gain.inside_noise:
        verdict = "A second source shows no gain beyond the noise"
    else:
        verdict = "A second source helps" if helps else "A second source makes it worse"
    text = f"{verdict}: the best pair, {pair.name}, against {pair.best_part[0]} alone is {_points(pair.gain, metric)}"
    overlap = next(found for found in pairs if set(found.sources) == set(pair.sources))
    if not overlap.one_right:
        return f"{text}."
    right, chance = (sum(shares) / len(shares) for shares in (overlap.one_right, overlap.by_chance))
    return (
        f"{text}; exactly one of the two is right on {100 * right:.1f}% of the rows, {100 * chance:.1f}% if their "
        "errors were independent."
    )


def _cost(chosen: SubsetRecord, best: SubsetRecord, inside: Sequence[SubsetRecord]) -> str:
    """What the choice saves, or what another choice of the same size would save."""
    if chosen is not best:
        return f"{chosen.name} takes {_share(chosen, best)} of the bytes per row of {best.name}."
    same = [subset for subset in inside if len(subset.sources) == len(chosen.sources) and subset is not chosen]
    cheap = [subset for subset in same if 2 * subset.bytes_per_row <= chosen.bytes_per_row]
    if not cheap:
        return ""
    return f"{cheap[0].name} is within the noise as well, and takes {_share(cheap[0], chosen)} of the bytes per row."


def _score(subset: SubsetRecord, metric: Metric) -> float:
    score = subset.mean("val", metric.name)
    return (float("-inf") if metric.higher_is_better else float("inf")) if score is None else score


def _points(difference: Paired, metric: Metric) -> str:
    """A difference with its interval."""
    text = f"{_signed(difference.mean, metric)} {'points' if metric.unit == '%' else metric.unit}".rstrip()
    if difference.low is None or difference.high is None:
        return text
    low, high = (_signed(end, metric).removeprefix("+") for end in (difference.low, difference.high))
    return f"{text}, 95% interval {low} to {high}"


def _shown(value: float, metric: Metric) -> str:
    return f"{100 * value:.1f}%" if metric.unit == "%" else f"{value:.4g} {metric.unit}".rstrip()


def _signed(value: float, metric: Metric) -> str:
    rounded = f"{round(100 * value, 1):+.1f}" if metric.unit == "%" else f"{value:+.3g}"
    return rounded.replace("-", "\N{MINUS SIGN}") if float(rounded) else "0.0"


def _share(one: SubsetRecord, other: SubsetRecord) -> str:
    return f"{100 * one.bytes_per_row / other.bytes_per_row:.0f}%"
