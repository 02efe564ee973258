"""Where the work is done."""

import pytest
import torch

from pipeline.errors import UserError
from pipeline.machine import Machine, cores


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Machine().torch_device().type == expected
    assert Machine(device="cpu").torch_device().type == "cpu"
    assert cores() >= 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(UserError, match="no GPU here"):
        Machine(device="cuda").torch_device()
