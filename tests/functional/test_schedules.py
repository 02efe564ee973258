import pytest

from pipeline.functional.schedules import factor


@pytest.mark.parametrize(
    ("schedule", "start", "middle", "end"),
    [("constant", 1, 1, 1), ("linear_decay", 1, 0.5, 0), ("cosine_decay", 1, 0.5, 0), ("linear_rise", 0, 0.5, 1)],
)
def test_a_schedule_goes_from_its_start_to_its_end(schedule: str, start: float, middle: float, end: float) -> None:
    values = [factor(schedule, progress) for progress in (0.0, 0.5, 1.0)]  # type: ignore[arg-type]
    assert values == pytest.approx([start, middle, end])


def test_a_cosine_is_flat_at_both_ends_where_a_line_is_not() -> None:
    assert factor("cosine_decay", 0.1) > 0.95 > factor("linear_decay", 0.1)
    assert factor("cosine_decay", 0.9) < 0.05 < factor("linear_decay", 0.9)
