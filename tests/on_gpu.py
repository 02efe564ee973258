"""`pytest -p tests.on_gpu`: the same tests with a GPU in place of the CPU.

Projects of the tests train and extract on it, and so does what a test builds on its module's `CPU`.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # not before jaxtyping has seen to what is imported

    from tests.conftest import PARAMS

    PARAMS["machine"] = {"device": "cuda", "workers": 1}
    for item in items:
        module = getattr(item, "module", None)
        if hasattr(module, "CPU"):
            module.CPU = torch.device("cuda")
