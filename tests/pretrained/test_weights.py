from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.pretrained import digest, locate

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}


def test_a_plain_name_is_returned_as_it_is() -> None:
    assert locate("some/model") == Path("some/model")
    assert locate("/weights/model.pth") == Path("/weights/model.pth")


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipping" / "model").mkdir(parents=True)
    (tmp_path / "shipping" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "shipping" / "model" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:shipping/model/config.json").read_text() == "{}"
    assert locate("package:shipping/model").is_dir()
    with pytest.raises(UserError, match="shipping has no other"):
        locate("package:shipping/other")


@pytest.mark.parametrize("name", ["package:no_such_package/x", "package:a.b/x", "package:/x", "package:"])
def test_a_package_that_is_not_there_is_a_users_error(name: str) -> None:
    message = r"package:no_such_package/x: the package no_such_package is not installed|write it as package:NAME/PATH"
    with pytest.raises(UserError, match=message) as caught:
        locate(name)
    assert "pip install" not in str(caught.value)


def test_the_digest_depends_on_names_types_shapes_and_values_alone() -> None:
    first = digest(STATE)
    assert len(first) == 32
    assert digest({"b": STATE["b"].clone(), "a": STATE["a"].T.contiguous().T}) == first
    assert digest({"a": STATE["a"], "c": STATE["b"]}) != first
    assert digest({"a": STATE["a"].double(), "b": STATE["b"]}) != first
    assert digest({"a": STATE["a"].reshape(3, 2), "b": STATE["b"]}) != first
    assert digest({"a": STATE["a"] + torch.eye(2, 3), "b": STATE["b"]}) != first


def test_the_digest_takes_every_type_that_weights_have() -> None:
    types = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn]
    assert len({digest({"x": torch.ones(3).to(dtype)}) for dtype in types}) == len(types)
    assert digest({"x": torch.ones(0)}) != digest({})
