from collections.abc import Callable

import pytest

from tests.methods.case import Case, make_case


@pytest.fixture
def case() -> Case:
    return make_case()


@pytest.fixture
def make() -> Callable[..., Case]:
    return make_case
