"""Some input of each kind that is nearly sound; `make torture` tries more."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.memory import at_most
from tests.nearly_valid import PROPERTIES


@pytest.mark.filterwarnings("default")  # as in a command
@pytest.mark.parametrize("kind", PROPERTIES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nearly_sound_input_is_read_or_refused_in_one_line(tmp_path: Path, kind: str, data: st.DataObject):
    with at_most(2 << 30):
        PROPERTIES[kind](tmp_path, data)
