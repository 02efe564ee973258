"""Text students: which models can be one, of which weights, and how deep."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.pretrained import transformers as text_models
from pipeline.students import student_blueprint

from ..conftest import WORDS, write_encoder
from ..teachers.zoo import write_model


@pytest.fixture
def texts(project: Path) -> Dataset:
    return Dataset.open(project / "data")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), WORDS, width=16, layers=3)


@pytest.fixture
def copy(encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoder, tmp_path / "m"))


def of(model: Path | str, data: Dataset, **settings: Any) -> Any:
    """The blueprint of a student and the student."""
    section = {"family": "transformers", "model": str(model), **settings}
    blueprint = student_blueprint(section, "students.s", data, np.arange(40))
    return blueprint, blueprint.build()


def plain_states(folder: Path, data: Dataset, rows: np.ndarray, layer: int) -> list[torch.Tensor]:
    """States after so many layers, one text at a time."""
    tokenizer, model = hf.AutoTokenizer.from_pretrained(folder), hf.AutoModel.from_pretrained(folder).eval()
    states = []
    for text in data.content(rows):
        with torch.no_grad():
            inputs = tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
            states.append(model(**inputs, output_hidden_states=True).hidden_states[layer][0])
    return states


@pytest.mark.parametrize("layers", [None, 1, 2])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_its_features_are_those_of_its_first_layers(
    encoder: Path, texts: Dataset, layers: int | None, pooling: str
) -> None:
    blueprint, student = of(encoder, texts, layers=layers, pooling=pooling)
    rows = np.array([3, 0, 11])
    features = student.eval()(blueprint.inputs(texts).batch(rows))[0]
    states = plain_states(encoder, texts, rows, layers or 3)
    expected = [state[-1] if pooling == "last" else state.mean(0) for state in states]
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_more_layers_than_there_are_are_refused(encoder: Path, texts: Dataset) -> None:
    with pytest.raises(UserError, match="layers: 4, but it has only 3; set fewer"):
        of(encoder, texts, layers=4)


def test_a_hub_name_is_fetched_as_a_teacher_is(encoder: Path, texts: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def download(name: str, revision: str | None, **_: Any) -> str:
        asked.append((name, revision))
        return str(encoder)

    monkeypatch.setattr(text_models, "snapshot_download", download)
    _, student = of("someone/model", texts, revision="abc")
    assert set(asked) == {("someone/model", "abc")}
    own = load_file(encoder / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(student.body.model.get_input_embeddings().weight, own)


def test_missing_weights_are_refused_and_not_made_up(copy: Path, texts: Dataset) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["encoder.layer.1.attention.self.query.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"lack 1 of the model's \d+ tensors, such as 'encoder\.layer\.1.*pretrained: false"
    ):
        of(copy, texts)
    of(copy, texts, pretrained=False)


@pytest.mark.parametrize("prefix", ["model.", "module.", "odd.", ""])
def test_weights_under_a_prefix_are_refused(copy: Path, texts: Dataset, prefix: str) -> None:
    state = load_file(copy / "model.safetensors")
    named = {f"{prefix}{name}": value for name, value in state.items()}
    save_file(named, copy / "model.safetensors", metadata={"format": "pt"})
    if prefix:
        with pytest.raises(UserError, match=r"lack \d+ of the model's \d+ tensors, such as '.*'; save them under"):
            of(copy, texts)
        return
    loaded = of(copy, texts)[1].body.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_a_length_beyond_its_positions_is_refused_and_the_default_keeps_to_them(encoder: Path, texts: Dataset) -> None:
    with pytest.raises(UserError, match="max_length: 49 is more than the model's 48 positions"):
        of(encoder, texts, max_length=49)
    with pytest.raises(UserError, match="max_length: 2 leaves nothing of a text"):
        of(encoder, texts, max_length=2)
    blueprint, _ = of(encoder, texts)
    assert json.loads(blueprint.fitted["tokenizer"])["truncation"]["max_length"] == 48
    assert json.loads(of(encoder, texts, truncation="left")[0].fitted["tokenizer"])["truncation"]["direction"] == "Left"


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_decoder_is_its_encoder_pretrained_or_not(kind: str, texts: Dataset, tmp_path: Path) -> None:
    write_model(tmp_path / "m", kind)
    blueprint, student = of(tmp_path / "m", texts)
    again = blueprint.build(pretrained=False)
    again.load_state_dict(student.state_dict())
    assert not any("decoder" in name for name in student.state_dict())
    batch = blueprint.inputs(texts).batch(np.arange(5))
    torch.testing.assert_close(again.eval()(batch), student.eval()(batch))


@pytest.mark.parametrize(
    ("kind", "settings", "line"),
    [
        ("llama", {"pooling": "cls"}, "does not see the text"),
        ("fnet", {}, r"depend on the length of its batch.*\(FNetModel\)"),
    ],
)
def test_models_that_cannot_be_a_student_are_refused(
    kind: str, settings: dict[str, Any], line: str, texts: Dataset, tmp_path: Path
) -> None:
    write_model(tmp_path, kind)
    with pytest.raises(UserError, match=line) as failure:
        of(tmp_path, texts, **settings)
    assert "\n" not in str(failure.value)


def test_a_tokenizer_in_python_is_refused_in_one_line(texts: Dataset, tmp_path: Path) -> None:
    hf.ByT5Tokenizer().save_pretrained(tmp_path)
    config = hf.T5Config(vocab_size=384, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    hf.T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"its tokenizer is Python code \(ByT5Tokenizer\).*a tokenizer\.json"):
        of(tmp_path, texts, pretrained=False)


def test_a_model_without_its_tokenizer_is_refused(copy: Path, texts: Dataset) -> None:
    for file in copy.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match="knows 0 words"):
        of(copy, texts)


def test_layers_are_numbered_from_the_embeddings_to_the_new_head(encoder: Path, texts: Dataset) -> None:
    _, student = of(encoder, texts)
    depths = student.depths()
    assert depths.keys() == dict(student.named_parameters()).keys()
    assert set(depths.values()) == {0, 1, 2, 3, 4}
    for name, depth in depths.items():
        expected = 4 if name.startswith("head.") else 0 if ".embeddings." in name else None
        if ".layer." in name:
            expected = 1 + int(name.partition(".layer.")[2].partition(".")[0])
        assert depth == (3 if expected is None else expected), name  # what follows the layers belongs to the last one
