"""`pytest -p tests.on_gpu`: the same tests with the GPU in place of the CPU.

Projects of the tests train and extract on it, and so does what a test builds on its module's `CPU`. Numbers that hold
on one device alone are marked `cpu`; those tests keep theirs.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # not before jaxtyping has seen to what is imported

    from tests.conftest import PARAMS

    PARAMS["machine"] = {"device": "cuda", "workers": 1}
    for item in items:
        if item.get_closest_marker("cpu"):
            item.add_marker(pytest.mark.skip(reason="of a CPU alone"))
        module = getattr(item, "module", None)
        if hasattr(module, "CPU"):
            module.CPU = torch.device("cuda")
