"""The report's figures: numbers in, inline SVG out.

Colours are names of the page's CSS variables, so that one figure serves light and dark; text is real text in the
page's own fonts. Equal input gives equal bytes: no dates, no random ids. Nothing is computed here but positions.
"""

import io
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, SOFT, HAIR, ACCENT, REFERENCE = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", SOFT: "--soft", HAIR: "--hair", ACCENT: "--accent", REFERENCE: "--reference"}

PANEL = (340, 210)
"""Width and height of a small figure, in CSS pixels at its natural size: it fits a phone."""

_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Dash patterns of the lines in one figure, which have one colour."""

_APART, _LINE, _LETTER = 9.0, 14.0, 6.6
"""Pixels between two points that are drawn side by side, between two lines of labels, and of a letter in them."""

_MOST_POINTS = 300
"""Points kept of a long line: about one a pixel."""


@dataclass(frozen=True)
class Dots:
    """One row of the dot plot.

    Attributes:
        name: its label, of one line or more.
        seeds: the paired difference of every seed.
        mean: their mean.
        written: the mean as text, such as `+1.83`.
        interval: of that mean, from low to high; None where there is none.
        bounds: the interval as text, such as `0.82, 2.34`.
        reference: the reference's mean paired difference, if it has one.
        muted: drawn in grey, as a control is.
    """

    name: str
    seeds: Sequence[float]
    mean: float
    written: str
    interval: tuple[float, float] | None
    bounds: str
    reference: float | None
    muted: bool


@dataclass(frozen=True)
class Band:
    """A curve: its mean over seeds and that mean's standard error, None for one seed."""

    steps: Sequence[int]
    mean: Sequence[float]
    error: Sequence[float] | None


@dataclass(frozen=True)
class Plotted:
    """A model in the figure of scores against speeds.

    Attributes:
        name: its label.
        group: models of one group are drawn side by side at their median speed.
        speed: rows a second.
        mean: its score.
        interval: of that mean, from low to high; None where there is none.
        teacher: drawn hollow.
    """

    name: str
    group: str
    speed: float
    mean: float
    interval: tuple[float, float] | None
    teacher: bool


@dataclass(frozen=True)
class Tried:
    """Candidates of a search that share their settings, one per weight.

    Attributes:
        settings: as text; empty where nothing but weights is searched.
        scores: per weight, the validation score of every seed; empty where the training diverged, None where the line
            has no candidate.
        chosen: the index of the weight that was chosen, if it is among these.
        dropped: the indices of the weights that were not trained on all seeds.
    """

    settings: str
    scores: Sequence[Sequence[float] | None]
    chosen: int | None
    dropped: Collection[int] = ()


def differences(
    rows: Sequence[Dots],
    name: str,
    label: str,
    axis: str,
    origin: str = "plain training",
    narrow: bool = False,
) -> str:
    """Paired differences: every seed a dot, the mean and its interval, the reference dashed.

    Args:
        rows: from top to bottom.
        name: prefix of the ids inside the figure; unique on its page.
        label: a description for screen readers.
        axis: label of the horizontal axis.
        origin: what the differences are taken against.
        narrow: lay it out for a phone.
    """
    widest = max(len(line) for row in rows for line in row.name.splitlines())
    width, left, right, pitch = (340, 12, 12, 46) if narrow else (860, min(30 + 7 * widest, 220), 150, 38)
    pitch += 15 * max(0, max(row.name.count("\n") for row in rows) - (0 if narrow else 1))
    top, bottom = 34 if narrow else 28, 40
    height = top + bottom + pitch * len(rows)
    figure = _figure(width, height)
    axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width, 1 - (top + bottom) / height))
    _style(axes, grid=False)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(axis)
    reach = [x for row in rows for x in (*row.seeds, *(row.interval or ()), row.reference, 0.0) if x is not None]
    margin = 0.06 * ((max(reach) - min(reach)) or 1.0)
    axes.set_xlim(min(reach) - margin, max(reach) + margin)
    axes.axvline(0, color=INK, linewidth=0.9)
    lift = 9 if narrow else 4
    _above(axes, 0.0, lift, origin, SOFT)
    first = rows[0].reference
    if first is not None and abs(first) > (max(reach) - min(reach)) * (0.33 if narrow else 0.2):
        _above(axes, first, lift, "linear probe", REFERENCE)
    for y, row in enumerate(rows):
        colour = SOFT if row.muted else ACCENT
        centre = y + 0.16 if narrow else y
        if row.reference is not None:
            axes.plot([row.reference] * 2, [y - 0.5, y + 0.5], color=REFERENCE, linewidth=1.2, linestyle=(0, (4, 3)))
        # Seeds in order from top to bottom, so that a dot can be followed from row to row.
        offsets = np.linspace(-0.2, 0.2, len(row.seeds)) if len(row.seeds) > 1 else [0.0]
        axes.scatter(row.seeds, centre + np.asarray(offsets), s=16, color=colour, alpha=0.45, linewidths=0)
        if row.interval is not None:
            axes.plot(row.interval, [centre, centre], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.scatter([row.mean], [centre], s=62, marker="D", color=colour, linewidths=0, zorder=3)
        if narrow:
            _row_text(axes, 0.0, y - 0.3, row.name, "left")
            _row_text(axes, 1.0, y - 0.3, row.written, "right")
        else:
            inner = width - left - right
            _row_text(axes, -left / inner, y, row.name, "left")
            bounds = f"  [{row.bounds}]" if row.bounds else ""
            _row_text(axes, 1 + 14 / inner, y, row.written + bounds, "left")
    return _svg(figure, name, label)


def curve(band: Band, baseline: Band | None, limits: tuple[float, float], name: str, label: str, axis: str) -> str:
    """Validation score against the step: the mean, one standard error around it, the baseline in grey.

    Args:
        band: the run.
        baseline: plain training, if it is another run.
        limits: of the vertical axis, the same for panels that are compared.
        name, label: as in `differences`.
        axis: label of the vertical axis.
    """
    figure, axes = _panel("training step", axis)
    if baseline is not None:
        axes.plot(*_thin(baseline.steps, baseline.mean), color=SOFT, linewidth=1.2)
    if band.error is not None:
        x, y, error = _thin(band.steps, band.mean, band.error)
        axes.fill_between(x, y - error, y + error, color=ACCENT, alpha=0.18, linewidth=0)
    axes.plot(*_thin(band.steps, band.mean), color=ACCENT, linewidth=1.8)
    axes.set_ylim(*limits)
    axes.set_xlim(left=0)
    return _svg(figure, name, label)


def search(ticks: Sequence[str], lines: Sequence[Tried], name: str, label: str, axis: str, across: str = "") -> str:
    """Validation score of every candidate: each seed a dot, means joined by lines, the choice ringed.

    A candidate that diverged has the word in place of dots. One that was dropped has a cross for the mean of the seeds
    that it has, apart from the line.

    Args:
        ticks: the weights (or, without methods, the settings), as text.
        lines: candidates that share their settings.
        name, label: as in `differences`.
        axis, across: labels of the vertical and of the horizontal axis.
    """
    crowded = len(ticks) > 8
    below = round(6.4 * max(map(len, ticks))) if crowded else 0
    columns = 2 if max(len(line.settings) for line in lines) <= 16 else 1
    above = 15 * (math.ceil(len(lines) / columns) - 1)
    figure, axes = _panel(across, axis, below, above)
    for number, line in enumerate(lines):
        # Slightly apart, so that the seeds of one weight do not overlap.
        places = np.arange(len(ticks)) + 0.16 * (number - (len(lines) - 1) / 2) / max(1, len(lines) - 1)
        tried = [(weight, seeds) for weight, seeds in enumerate(line.scores) if seeds is not None]
        for weight, seeds in tried:
            axes.scatter([places[weight]] * len(seeds), seeds, s=12, color=ACCENT, alpha=0.35, linewidths=0)
            if not seeds:
                axes.text(places[weight], 0.03, "diverged", transform=axes.get_xaxis_transform(), rotation=90,
                          color=SOFT, fontsize=9, ha="center", va="bottom")  # fmt: skip
        means = {weight: float(np.mean(seeds)) if seeds else np.nan for weight, seeds in tried}
        dash = _DASHES[number % len(_DASHES)]
        joined = [weight for weight in means if weight not in line.dropped]
        axes.plot(
            places[joined], [means[weight] for weight in joined], color=ACCENT, linewidth=1.6, linestyle=dash,
            marker="o", markersize=4.5, label=line.settings,
        )  # fmt: skip
        apart = [weight for weight in means if weight in line.dropped]
        axes.scatter(places[apart], [means[weight] for weight in apart], s=30, marker="x", color=SOFT, linewidths=1.4)
        if line.chosen is not None:
            at = (places[line.chosen], means[line.chosen])
            axes.scatter(*at, s=110, facecolors="none", edgecolors=REFERENCE, linewidths=1.6, zorder=3)
    axes.set_xticks(range(len(ticks)), list(ticks), rotation=90 if crowded else 0)
    axes.set_xlim(-0.5, len(ticks) - 0.5)
    if len(lines) > 1:
        axes.margins(y=0.12)
        axes.legend(frameon=False, fontsize=10, labelcolor=SOFT, handlelength=2.4, ncols=columns, loc="lower center",
                    bbox_to_anchor=(0.5, 0.98), borderaxespad=0)  # fmt: skip
    return _svg(figure, name, label)


def points(
    scores: Sequence[Sequence[float]],
    apart: Collection[int],
    best: int | None,
    higher_is_better: bool,
    name: str,
    label: str,
    axis: str,
) -> str:
    """Validation score of every point of a sweep, in its order, with the best so far as a line and the best ringed.

    Args:
        scores: per point, those of its seeds; none where it diverged on the first.
        apart: points that do not have all seeds; the mean of those that they have is a cross, and not on the line.
        best: the best point; None where no point was trained on all seeds.
        higher_is_better: of the scores.
        name, label: as in `differences`.
        axis: the label of the vertical axis.
    """
    figure, axes = _panel("point", axis)
    for number, seeds in enumerate(scores):
        axes.scatter([number] * len(seeds), seeds, s=10, color=ACCENT, alpha=0.3, linewidths=0)
    means = np.array([float(np.mean(seeds)) if seeds else np.nan for seeds in scores])
    crossed = np.isin(np.arange(len(scores)), list(apart))
    axes.scatter(np.flatnonzero(crossed), means[crossed], s=26, marker="x", color=SOFT, linewidths=1.2)
    axes.scatter(np.flatnonzero(~crossed), means[~crossed], s=18, color=ACCENT, linewidths=0)
    so_far = (np.fmax if higher_is_better else np.fmin).accumulate(np.where(crossed, np.nan, means))
    axes.plot(np.arange(len(scores)), so_far, color=ACCENT, linewidth=1.4, drawstyle="steps-post")
    if best is not None:
        axes.scatter(best, means[best], s=110, facecolors="none", edgecolors=REFERENCE, linewidths=1.6, zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlim(-0.5, len(scores) - 0.5)
    return _svg(figure, name, label)


def speeds(models: Sequence[Plotted], name: str, label: str, axis: str, across: str, narrow: bool = False) -> str:
    """Score against rows a second, on a logarithmic scale; every model with its interval and its name.

    Args:
        models: in any order.
        name, label: as in `differences`.
        axis, across: labels of the vertical and of the horizontal axis.
        narrow: lay it out for a phone.
    """
    width, height = (340, 300) if narrow else (860, 340)
    left, right, top, bottom = 52, 12, 14, 42
    across_pixels, up_pixels = width - left - right, height - top - bottom
    figure = _figure(width, height)
    axes = figure.add_axes((left / width, bottom / height, across_pixels / width, up_pixels / height))
    _style(axes, grid=True)
    axes.set_xscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(axis)
    groups: dict[str, list[Plotted]] = {}
    for model in sorted(models, key=lambda model: model.mean):
        groups.setdefault(model.group, []).append(model)
    middles = {group: math.log10(np.median([model.speed for model in of])) for group, of in groups.items()}
    low, high = min(middles.values()), max(middles.values())
    room = 0.25 * (high - low) or 0.5
    low, high = low - room, high + room
    axes.set_xlim(10**low, 10**high)
    ends = [end for model in models for end in (model.mean, *(model.interval or ()))]
    margin = 0.08 * ((max(ends) - min(ends)) or 1.0)
    bounds = (min(ends) - margin, max(ends) + margin)
    axes.set_ylim(*bounds)
    # Names are towards the middle, those of the fastest outside if they fit; in pixels from the lower left corner.
    names: list[tuple[float, str, Plotted]] = []
    for group, of in groups.items():
        centre = (middles[group] - low) / (high - low) * across_pixels
        beside = _APART * (len(of) - 1) / 2 + 10
        fits = max(len(model.name) for model in of) * _LETTER <= across_pixels - centre - beside
        side = "left" if centre < across_pixels / 2 or (middles[group] == max(middles.values()) and fits) else "right"
        for number, model in enumerate(of):
            x = 10 ** (low + (centre + _APART * (number - (len(of) - 1) / 2)) / across_pixels * (high - low))
            colour = REFERENCE if model.teacher else ACCENT
            if model.interval is not None:
                axes.plot([x, x], model.interval, color=colour, linewidth=2, solid_capstyle="round")
            face = "none" if model.teacher else colour
            axes.scatter([x], [model.mean], s=44, facecolors=face, edgecolors=colour, linewidths=1.6, zorder=3)
            names.append((centre + beside if side == "left" else centre - beside, side, model))
    heights = [(model.mean - bounds[0]) / (bounds[1] - bounds[0]) * up_pixels for _, _, model in names]
    for (x, side, model), y in zip(names, _spread(heights, _LINE, float(up_pixels)), strict=True):
        axes.annotate(
            model.name, (x, y), xycoords="axes pixels", ha=side, va="center", color=INK, fontsize=11,
            parse_math=False, annotation_clip=False,
        )  # fmt: skip
    return _svg(figure, name, label)


def gates(sorted_gates: Sequence[Sequence[float]], name: str, label: str) -> str:
    """Learned gates from the largest to the smallest: their mean over seeds and the range of the seeds.

    Args:
        sorted_gates: per seed, its gates in descending order.
    """
    figure, axes = _panel("share of the teacher's features, %", "gate")
    values = np.asarray(sorted_gates, dtype=np.float64)
    width = values.shape[1]
    places = (np.arange(width) + 0.5) / width * 100
    if len(values) > 1:
        x, low, high = _thin(places, values.min(0), values.max(0))
        axes.fill_between(x, low, high, color=ACCENT, alpha=0.18, linewidth=0)
    few = width <= 30
    axes.plot(*_thin(places, values.mean(0)), color=ACCENT, linewidth=1.8, marker="o" if few else "", markersize=4)
    axes.set_xlim(0, 100)
    highest = float(values.max())
    axes.set_ylim(0, 1 if highest <= 1 else 1.05 * highest)
    return _svg(figure, name, label)


def _figure(width: int, height: int) -> Figure:
    # At 72 dots per inch a unit of the figure is one CSS pixel of its natural size.
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def _panel(x: str, y: str, below: int = 0, above: int = 0) -> tuple[Figure, Axes]:
    """A small figure with labelled axes, with `below` and `above` more pixels for long ticks and for a legend."""
    width, height = PANEL[0], PANEL[1] + below + above
    figure = _figure(width, height)
    axes = figure.add_axes((48 / width, (42 + below) / height, (width - 60) / width, (PANEL[1] - 54) / height))
    _style(axes, grid=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _style(axes: Axes, grid: bool) -> None:
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=HAIR, linewidth=1)
    axes.tick_params(color=HAIR, labelcolor=SOFT, labelsize=11, length=3)
    axes.xaxis.label.set(color=SOFT, fontsize=11)
    axes.yaxis.label.set(color=SOFT, fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if grid:
        axes.grid(axis="y", color=HAIR, linewidth=0.6)
        axes.set_axisbelow(True)


def _row_text(axes: Axes, x: float, y: int | float, text: str, side: str) -> None:
    """Text at a share of the axes' width and a row's height. A dollar in a name does not start a formula."""
    place = axes.get_yaxis_transform()
    axes.text(x, y, text, transform=place, ha=side, va="center", color=INK, fontsize=12, parse_math=False)


def _above(axes: Axes, x: float, lift: int, text: str, colour: str) -> None:
    """Text above the axes, at a difference."""
    axes.annotate(
        text, (x, 1), xytext=(0, lift), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
        color=colour, fontsize=10.5, ha="center", va="bottom", parse_math=False,
    )  # fmt: skip


def _spread(places: Sequence[float], gap: float, most: float) -> list[float]:
    """Places moved as little as needed, in their order, so that neighbours are `gap` apart, from 0 to `most`."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    # Up from below, and back down from the top where that was too far.
    for before, index in pairwise(order):
        moved[index] = max(moved[index], moved[before] + gap)
    if order:
        moved[order[-1]] = min(moved[order[-1]], most)
    for after, index in pairwise(reversed(order)):
        moved[index] = min(moved[index], moved[after] - gap)
    return moved


def _thin(*lines: Sequence[float] | Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """The same lines with at most `_MOST_POINTS` points, first and last among them."""
    count = len(lines[0])
    keep = np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int))
    return [np.asarray(line, dtype=np.float64)[keep] for line in lines]


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an inline element: no header, no metadata, no fonts, ids of its own, the page's colours."""
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "axes.unicode_minus": True}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    width, height = (round(72 * side) for side in figure.get_size_inches())
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' font-family: [^;"]*;| transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"\s*\n\s*", "\n", text)
    opening = (
        f'<svg viewBox="0 0 {width} {height}" style="max-width: {width}px" role="img" aria-label="{escape(label)}">'
    )
    return opening + text.strip()
