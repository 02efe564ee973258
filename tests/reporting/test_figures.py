"""Figures: what is drawn where, in which order, and how much of it."""

import re
from itertools import pairwise

import numpy as np
import pytest

from pipeline.reporting.figures import Band, Dots, Plotted, Tried, curve, differences, gates, search, speeds

ROWS = [
    Dots("kd", seeds=[0.5, -1.0, 2.0], mean=0.5, written="+0.50", interval=(-3.2, 4.2), bounds="-3.20, 4.20",
         reference=6.0, muted=False),
    Dots("control", seeds=[-4.0, -5.0, -6.0], mean=-5.0, written="-5.00", interval=(-7.5, -2.5), bounds="-7.50, -2.50",
         reference=6.0, muted=True),
]  # fmt: skip


def one(name, seeds, mean):
    return Dots(name, seeds, mean, f"{mean:+.2f}", None, "", None, False)


def marks(svg):
    """The places of the dots and diamonds: first all seeds, then all means, each from the first row to the last."""
    found = re.findall(r'<use href="#[^"]*" x="([^"]*)" y="([^"]*)" style="fill: var\(--(?:accent|soft)\)', svg)
    return [(float(x), float(y)) for x, y in found]


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def paths(svg, variable):
    """The points of the lines drawn in a colour."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*style="[^"]*stroke: var\({variable}\)', svg)
    return [
        [tuple(map(float, point.split()[-2:])) for point in re.findall(r"[MLC] ([-\d. ]+)", path)] for path in found
    ]


@pytest.mark.parametrize("narrow", [False, True])
def test_every_seed_and_mean_is_at_its_difference(narrow):
    svg = differences(ROWS, "a", "label", "points", narrow=narrow)
    expected = [*ROWS[0].seeds, *ROWS[1].seeds, ROWS[0].mean, ROWS[1].mean]
    places = [x for x, _ in marks(svg)]
    scale, zero = np.polyfit(expected[:2], places[:2], 1)
    assert scale > 0
    assert places == pytest.approx([zero + scale * value for value in expected], abs=1e-3)


def test_intervals_reach_from_low_to_high_and_plain_training_is_at_zero():
    svg = differences(ROWS, "a", "label", "points")
    scale, zero = np.polyfit(ROWS[0].seeds, [x for x, _ in marks(svg)][:3], 1)
    at = lambda value: pytest.approx(zero + scale * value, abs=1e-3)  # noqa: E731
    assert [[x for x, _ in line] for line in paths(svg, "--accent")] == [[at(-3.2), at(4.2)]]
    assert [[x for x, _ in line] for line in paths(svg, "--soft")] == [[at(-7.5), at(-2.5)]]
    assert [x for x, _ in paths(svg, "--ink")[0]] == [at(0), at(0)]
    assert [[x for x, _ in line] for line in paths(svg, "--reference")] == [[at(6), at(6)]] * 2


def test_numbers_are_written_next_to_the_rows():
    written = texts(differences(ROWS, "a", "label", "points", origin="the best"))
    assert {"kd", "points", "the best", "linear probe"} <= set(written)
    assert "+0.50  [-3.20, 4.20]" in written
    assert "-5.00  [-7.50, -2.50]" in written


def test_a_name_with_dollars_is_written_as_it_is():
    assert "$x_1$" in texts(differences([one("$x_1$", [1.0, 2.0], 1.5)], "a", "label", "points"))


def test_rows_are_drawn_from_top_to_bottom():
    heights = [y for _, y in marks(differences(ROWS, "a", "label", "points"))]
    assert max(heights[:3]) < min(heights[3:6])
    assert heights[6] < heights[7]


def test_one_seed_is_drawn_without_an_interval():
    svg = differences([one("aft", [1.0], 1.0)], "a", "label", "points")
    assert paths(svg, "--accent") == []
    assert "+1.00" in texts(svg)


def test_a_long_curve_keeps_its_ends_and_few_points():
    steps = list(range(5000))
    svg = curve(Band(steps, [float(s) / 100 for s in steps], None), None, (0.0, 50.0), "a", "label", "accuracy, %")
    (line,) = paths(svg, "--accent")
    assert len(line) <= 300
    assert line[0][0] < line[-1][0]
    assert line[0][1] - line[-1][1] == pytest.approx(156 * 49.99 / 50, abs=0.1)  # the axes are 156 high


def test_the_band_is_one_standard_error_around_the_mean():
    svg = curve(Band([0, 10], [50.0, 60.0], [1.0, 2.0]), None, (0.0, 100.0), "a", "label", "accuracy, %")
    (line,) = paths(svg, "--accent")
    shape, base = re.search(
        r'<path id="[^"]*" d="([^"]*)"/>\s*</defs>\s*<g [^>]*>\s*<use [^>]*y="([^"]*)" style="fill: var\(--accent\)',
        svg,
    ).groups()
    corners = [tuple(map(float, point.split())) for point in re.findall(r"[ML] ([-\d. ]+)", shape)]
    for (x, y), error in zip(line, (1, 2), strict=True):
        heights = [float(base) + height for place, height in corners if place == pytest.approx(x)]
        assert (min(heights), max(heights)) == pytest.approx((y - 1.56 * error, y + 1.56 * error), abs=0.01)


def test_plain_training_is_drawn_in_grey_with_a_run():
    band = Band([0, 10], [50.0, 60.0], None)
    assert paths(curve(band, None, (0.0, 100.0), "a", "label", "accuracy, %"), "--soft") == []
    assert (
        len(paths(curve(band, Band([0, 10], [40.0, 50.0], None), (0.0, 100.0), "a", "label", "accuracy, %"), "--soft"))
        == 1
    )


def test_the_ring_is_around_the_mean_of_the_chosen_weight():
    svg = search(
        ["0", "3", "10"], [Tried("", [[60.0, 62.0], [64.0, 66.0], [61.0, 63.0]], 1)], "a", "label", "accuracy, %"
    )
    (line,) = paths(svg, "--accent")
    ring = np.array(paths(svg, "--reference")[0])
    assert (ring.max(0) + ring.min(0)) / 2 == pytest.approx(line[1], abs=1e-3)
    assert texts(svg)[:3] == ["0", "3", "10"]


def test_candidates_of_each_setting_have_a_line_of_their_own():
    low = Tried("dropout 0.5", [[60.0], [64.0], [62.0]], None)
    high = Tried("dropout 0.8", [[61.0], [63.0], [66.0]], 2)
    svg = search(["0", "3", "10"], [low, high], "a", "label", "accuracy, %")
    lines = paths(svg, "--accent")[:2]  # those of the legend follow
    heights = np.array(lines)[:, :, 1]
    assert (heights[0] > heights[1]).tolist() == [True, False, True]  # down the page is less accurate
    ring = np.array(paths(svg, "--reference")[0])
    assert (ring.max(0) + ring.min(0)) / 2 == pytest.approx(lines[1][2], abs=1e-3)
    assert {"dropout 0.5", "dropout 0.8"} < set(texts(svg))


def test_a_line_leaves_out_the_weights_that_it_did_not_try():
    plain = [60.0, 62.0]
    low = Tried("head 1", [plain, [64.0], None], None)
    high = Tried("head 0", [plain, None, [66.0]], 2)
    svg = search(["0", "3", "10"], [low, high], "a", "label", "accuracy, %")
    lines = paths(svg, "--accent")[:2]
    assert [len(line) for line in lines] == [2, 2]
    ring = np.array(paths(svg, "--reference")[0])
    assert (ring.max(0) + ring.min(0)) / 2 == pytest.approx(lines[1][1], abs=1e-3)
    assert "diverged" not in texts(svg)


def test_a_long_legend_takes_height_of_its_own_and_leaves_the_axes_as_they_are():
    def drawn(*names: str) -> tuple[float, float]:
        svg = search(["0", "3"], [Tried(name, [[60.0], [64.0]], None) for name in names], "a", "label", "accuracy, %")
        heights = np.array(paths(svg, "--accent")[0])[:, 1]
        return float(re.search(r'viewBox="0 0 340 (\d+)"', svg)[1]), float(np.ptp(heights))

    short, spread = drawn("dropout 0.5", "dropout 0.8")
    tall, same = drawn(*(f"dropout {d}, temperature {t}" for d in (0.5, 0.8) for t in (1.0, 4.0)))
    assert tall == short + 3 * 15
    assert same == pytest.approx(spread, abs=0.01)


def test_a_candidate_that_was_dropped_has_a_cross_apart_from_the_line():
    every, fewer = [[60.0, 62.0], [64.0, 66.0]], [[60.0, 62.0], [64.0, 66.0], [50.0]]
    svg = search(["0", "3", "10"], [Tried("", [*every, None], 1)], "a", "label", "accuracy, %")
    with_cross = search(["0", "3", "10"], [Tried("", fewer, 1, dropped=[2])], "a", "label", "accuracy, %")
    joined = search(["0", "3", "10"], [Tried("", fewer, 1)], "a", "label", "accuracy, %")
    # A cross is two strokes; a line and its markers are of three points where it is joined.
    assert svg != with_cross != joined
    assert lines(with_cross) == lines(svg) == lines(joined) - 1


def lines(svg: str) -> int:
    """How many pieces the lines in the accent colour have, ends of markers aside."""
    drawn = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--accent\)', svg)
    return sum(path.count("L ") for path in drawn)


def test_a_candidate_that_diverged_is_named_where_its_dots_would_be():
    svg = search(["0", "3", "10"], [Tried("", [[60.0, 62.0], [64.0, 66.0], []], 1)], "a", "label", "accuracy, %")
    (line,) = paths(svg, "--accent")
    assert len(line) == 2
    assert texts(svg).count("diverged") == 1
    assert "nan" not in svg.lower()


def test_many_weights_get_room_for_their_names():
    def height(names):
        svg = search(names, [Tried("", [[60.0]] * len(names), None)], "a", "label", "accuracy, %")
        return float(re.search(r'viewBox="0 0 340 (\d+)"', svg)[1])

    assert height(["0+0"] * 8) == 210
    assert height(["1000+1000"] * 9) - 210 == pytest.approx(6.4 * 9, abs=1)


@pytest.mark.parametrize("width", [3, 384, 20_000])
def test_gates_of_any_number_make_a_small_figure(width):
    descending = np.sort(np.random.default_rng(0).random((3, width)))[:, ::-1]
    svg = gates([list(seed) for seed in descending], "a", "label")
    assert len(svg) < 40_000
    heights = [y for _, y in paths(svg, "--accent")[0]]
    assert heights == sorted(heights)  # descending gates, and y points down
    mean = descending.mean(0)
    assert heights[-1] - heights[0] == pytest.approx(156 * (mean[0] - mean[-1]), abs=0.1)


def test_figures_are_labelled_and_their_ids_are_their_own():
    first, second = (differences(ROWS, name, 'of "two" <runs>', "points") for name in ("a", "b"))
    assert 'aria-label="of &quot;two&quot; &lt;runs&gt;"' in first
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]


def test_equal_numbers_make_equal_figures():
    assert differences(ROWS, "a", "label", "points") == differences(ROWS, "a", "label", "points")


@pytest.mark.parametrize("narrow", [False, True])
def test_names_of_models_with_equal_scores_do_not_overlap(narrow):
    students = [Plotted(f"run {n}", "bag", 3_000.0 + n, 65.0 + n / 100, (64.0, 66.0), False) for n in range(6)]
    teacher = Plotted("probe", "probe", 40.0, 69.0, None, True)
    svg = speeds([*students, teacher], "f", "a figure", "accuracy, %", "rows a second", narrow=narrow)
    places = {name: float(y) for y, name in re.findall(r'translate\([-\d.]+ ([-\d.]+)\)"[^>]*>(run \d)<', svg)}
    places |= {name: float(y) for y, name in re.findall(r'<text[^>]* y="([-\d.]+)"[^>]*>(run \d)<', svg)}
    lines = [places[f"run {n}"] for n in range(6)]
    assert all(below - above > 12 for below, above in pairwise(lines))
    assert "probe" in texts(svg)
