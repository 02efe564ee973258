from collections.abc import Callable

import pytest

from tests.methods.world import World, make_world


@pytest.fixture
def world() -> World:
    return make_world()


@pytest.fixture
def worlds() -> Callable[..., World]:
    return make_world
