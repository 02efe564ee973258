"""Strict settings: every wrong key or value gets one line that says what to do."""

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field

from pipeline.errors import UserError
from pipeline.params import Params, Settings, parse
from pipeline.plugins import describe, plugin, plugins


class Inner(Settings):
    rate: float = 0.1


class Example(Settings):
    steps: int = Field(ge=1)
    rate: float = 0.5
    names: list[str] = Field(default_factory=list, max_length=3)
    mode: Literal["mean", "cls"] = "mean"
    inner: Inner = Inner()
    path: str | list[str] = ""
    pair: tuple[str, ...] = ()


def refusal(values: dict) -> str:
    with pytest.raises(UserError) as caught:
        parse(Example, values, "params.yaml: example")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("params.yaml: example")
    return message


def test_reads_values_and_defaults():
    read = parse(Example, {"steps": 3, "rate": 2, "inner": {"rate": 0.25}}, "here")
    assert (read.steps, read.rate, read.mode, read.inner.rate) == (3, 2.0, "mean", 0.25)


def test_an_unknown_key_is_named_with_the_allowed_ones_and_the_nearest():
    message = refusal({"steps": 3, "ratee": 1.0})
    assert "`ratee`" in message
    assert "did you mean `rate`" in message
    assert "inner, mode, names, pair, path, rate, steps" in message


def test_an_unknown_nested_key_lists_the_keys_of_its_own_section():
    message = refusal({"steps": 3, "inner": {"rat": 1.0}})
    assert "`inner.rat`" in message
    assert "allowed are rate" in message


def test_a_missing_key_is_named():
    assert "missing key `steps`" in refusal({})


@pytest.mark.parametrize(("text", "fix"), [("1e-4", "1.0e-4"), ("5e3", "5.0e+3"), ("'0.5'", "0.5")])
def test_a_number_that_yaml_reads_as_text_gets_the_spelling_that_works(tmp_path: Path, text: str, fix: str):
    (tmp_path / "params.yaml").write_text(f"example: {{steps: 3, rate: {text}}}")
    with pytest.raises(UserError, match="is text to YAML") as caught:
        Params.load(tmp_path / "params.yaml").read(Example, "example")
    advice = str(caught.value).rpartition("write ")[2]
    (tmp_path / "params.yaml").write_text(f"example: {{steps: 3, rate: {advice}}}")
    assert Params.load(tmp_path / "params.yaml").read(Example, "example").rate == float(text.strip("'"))
    assert advice == fix


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"steps": "many"}, ".steps"),
        ({"steps": 0}, ".steps"),
        ({"steps": 2.5}, ".steps"),
        ({"steps": True}, ".steps"),
        ({"steps": 3, "names": "one"}, ".names"),
        ({"steps": 3, "mode": "max"}, "'mean' or 'cls'"),
        ({"steps": 3, "names": ["a", 1]}, ".names[1]"),
        ({"steps": 3, "path": 5}, "example.path: should be a valid string"),
        ({"steps": 3, "pair": "a"}, ".pair: should be a valid list"),
        ({"steps": 3, "names": ["a", "b", "c", "d"]}, ".names: should have at most 3 items, found"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_was_found(values: dict, named: str):
    message = refusal(values)
    assert named in message
    assert repr(list(values.values())[-1]) in message or "found 1" in message


def test_settings_cannot_change_after_reading():
    read = parse(Example, {"steps": 3}, "here")
    with pytest.raises(ValueError, match="frozen"):
        read.steps = 4


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "", "\t: x"])
def test_a_file_that_is_not_a_mapping_is_refused_in_one_line(tmp_path: Path, text: str):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        Params.load(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_go(tmp_path: Path):
    with pytest.raises(UserError, match=r"no such file; run from the project's folder"):
        Params.load(tmp_path / "params.yaml")


def test_a_missing_section_lists_those_there_are():
    with pytest.raises(UserError, match=r"no section `teachers.minilms`.*did you mean `minilm`.*`teachers` has minilm"):
        Params({"teachers": {"minilm": {}}}).section("teachers.minilms")


def test_overrides_are_yaml_and_leave_the_file_alone(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("example: {steps: 3, inner: {rate: 1.0}}")
    read = Params.load(path, ["example.steps=7", "example.inner.rate=0.5", "example.names=[a, b]"]).read(
        Example, "example"
    )
    assert (read.steps, read.inner.rate, read.names) == (7, 0.5, ["a", "b"])
    assert Params.load(path).read(Example, "example").steps == 3


@pytest.mark.parametrize("override", ["steps=7", "example.steps", "exampel.steps=7", "example.=7", "example.steps=[1"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str):
    (tmp_path / "params.yaml").write_text("example: {steps: 3}")
    with pytest.raises(UserError, match="-S") as caught:
        Params.load(tmp_path / "params.yaml", [override])
    assert "\n" not in str(caught.value)


def test_an_override_reaches_methods_in_a_mapping_and_explains_how_if_they_are_a_list(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("runs: {new: {methods: {aft: {weight: auto}}}, old: {methods: [{name: aft, weight: auto}]}}")
    read = Params.load(path, ["runs.new.methods.aft.weight=3"]).section("runs.new")
    assert read == {"methods": {"aft": {"weight": 3}}}
    with pytest.raises(UserError, match=r"`runs\.old\.methods` is .*, not a mapping; set all of it, or"):
        Params.load(path, ["runs.old.methods.aft.weight=3"])


def test_the_file_name_is_the_name():
    assert "aft" in plugins("methods")
    assert plugin("methods", "aft").__name__ == "pipeline.methods.aft"
    with pytest.raises(UserError, match=r"no 'aff' in pipeline/methods/.*did you mean `aft`"):
        plugin("methods", "aff")


def test_plug_ins_are_described_by_their_first_line():
    for kind in ("methods", "teachers", "students", "datasets", "views"):
        found = describe(kind)
        assert list(found) == plugins(kind)
        assert all(line.endswith((".", ":")) or line for line in found.values())


@pytest.mark.parametrize("section", ["teachers", "students", "runs"])
@pytest.mark.parametrize(
    "name",
    ["b; touch pwned #", "`touch pwned`", "$(touch pwned)", "-S", "--help", "../../up", "a/b", "a.b", "a b", "", "a\nb",
     "\u0430ft", "a\u202eb", "x" * 101, "x" * 300, "con", "NUL", "com1", 1, True, None],
)  # fmt: skip
def test_names_are_names_and_nothing_else(tmp_path: Path, section: str, name: object):
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump({section: {name: {}}}))
    with pytest.raises(UserError, match="is not a valid name; use up to 100 letters") as refused:
        Params.load(file)
    assert "\n" not in str(refused.value) and str(refused.value).isascii()
