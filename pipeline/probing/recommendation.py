"""Which teachers to use, and why: the smallest subset whose score the noise cannot tell from the best one's.

It looks at validation scores and costs; test scores are in the same records and are not read.
"""

from collections.abc import Sequence

from pipeline.functional.statistics import Paired
from pipeline.probing.assessment import Pair, Subset


def order(subset: Subset) -> tuple[float, int, float, float, tuple[str, ...]]:
    """Sorts subsets from the best to the worst: by val accuracy, then the smaller, the quicker, the lighter one."""
    seconds = float("inf") if subset.seconds_per_row is None else subset.seconds_per_row
    return -subset.val_accuracy, len(subset.teachers), seconds, subset.bytes_per_row, tuple(sorted(subset.teachers))


def recommend(subsets: Sequence[Subset], pairs: Sequence[Pair]) -> tuple[Subset, tuple[str, ...]]:
    """The subset to use, and the reasons in one to three sentences.

    Of the subsets inside the noise of the best one, those of the fewest teachers are taken, and of these the best.
    """
    ranked = sorted(subsets, key=order)
    best = ranked[0]
    inside = [subset for subset in ranked if subset.inside_noise]
    chosen = min(inside, key=lambda subset: len(subset.teachers))  # min keeps the first, which is the best of its size
    if len(subsets) == 1:
        knn = _percent(chosen.mean("knn_val_accuracy"))
        return chosen, (
            f"{chosen.name} is the only teacher, so there is nothing to choose: its probe gets "
            f"{_percent(chosen.val_accuracy)} of the validation rows right, its nearest neighbours {knn}.",
        )
    reasons = [_standing(chosen, best, ranked), _second(ranked, pairs), _cost(chosen, best, inside)]
    return chosen, tuple(reason for reason in reasons if reason)


def _standing(chosen: Subset, best: Subset, ranked: Sequence[Subset]) -> str:
    """What it scores, and how that compares with the best, or with the best of the smaller ones."""
    alone = " alone" if len(chosen.teachers) == 1 else ""
    text = f"Use {chosen.name}{alone}: its probe gets {_percent(chosen.val_accuracy)} of the validation rows right, "
    if chosen.against_best is not None:
        return f"{text}which is within the noise of the best, {best.name} ({_points(chosen.against_best)})."
    text += f"the most of {len(ranked)} subsets"
    smaller = [subset for subset in ranked if len(subset.teachers) < len(chosen.teachers)]
    if not smaller or smaller[0].against_best is None:
        return f"{text}."
    text += ", and no smaller one is within the noise of it"
    if smaller[0].teachers == chosen.best_part and len(chosen.teachers) == 2:
        return f"{text}."  # the next sentence has their difference
    return f"{text} (the next is {smaller[0].name}: {_points(smaller[0].against_best)})."


def _second(ranked: Sequence[Subset], pairs: Sequence[Pair]) -> str:
    """What the best pair gains over the better of its two, and whether the two err on the same rows."""
    pair = next(subset for subset in ranked if len(subset.teachers) == 2)
    assert pair.gain is not None and pair.best_part is not None
    if pair.gain.inside_noise:
        verdict = "A second teacher shows no gain beyond the noise"
    else:
        verdict = "A second teacher helps" if pair.gain.mean > 0 else "A second teacher does harm"
    overlap = next(found for found in pairs if set(found.teachers) == set(pair.teachers))
    right, chance = (sum(shares) / len(shares) for shares in (overlap.one_right, overlap.by_chance))
    return (
        f"{verdict}: the best pair, {pair.name}, against {pair.best_part[0]} alone is {_points(pair.gain)}; exactly "
        f"one of the two is right on {_percent(right)} of the rows, {_percent(chance)} were their errors independent."
    )


def _cost(chosen: Subset, best: Subset, inside: Sequence[Subset]) -> str:
    """What the choice saves, or what another choice of the same size would."""
    if chosen is not best:
        light = f"{_share(chosen.bytes_per_row, best.bytes_per_row)} of the bytes a row"
        return f"{chosen.name} takes {light}{_time(chosen, best)} of {best.name}."
    same = [subset for subset in inside if len(subset.teachers) == len(chosen.teachers) and subset is not chosen]
    cheap = [subset for subset in same if _cheaper(subset, chosen)]
    if not cheap:
        return ""
    light = f"{_share(cheap[0].bytes_per_row, chosen.bytes_per_row)} of the bytes a row"
    return f"{cheap[0].name} is within the noise as well, and takes {light}{_time(cheap[0], chosen)}."


def _cheaper(one: Subset, other: Subset) -> bool:
    """Whether it takes half or less of something and not more of the rest."""
    costs = [(one.bytes_per_row, other.bytes_per_row)]
    if one.seconds_per_row is not None and other.seconds_per_row is not None:
        costs.append((one.seconds_per_row, other.seconds_per_row))
    return all(mine <= theirs for mine, theirs in costs) and any(2 * mine <= theirs for mine, theirs in costs)


def _time(one: Subset, other: Subset) -> str:
    if one.seconds_per_row is None or not other.seconds_per_row:
        return ""
    return f" and {_share(one.seconds_per_row, other.seconds_per_row)} of the extraction time"


def _points(difference: Paired) -> str:
    """A difference in points, with its interval."""
    text = f"{_signed(difference.mean)} points"
    if difference.low is None or difference.high is None:
        return text
    low, high = (_signed(end).removeprefix("+") for end in (difference.low, difference.high))
    return f"{text}, 95% interval {low} to {high}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _share(one: float, other: float) -> str:
    return f"{100 * one / other:.0f}%"


def _signed(value: float) -> str:
    rounded = round(100 * value, 1)
    return f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}") if rounded else "0.0"
