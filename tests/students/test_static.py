"""Word vectors of an encoder: their definition, how training adds to them, and where they are kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.students import Blueprint, load_student, save_student, static, student_blueprint
from pipeline.students.static import Settings, Static, token_weights

from ..conftest import WORDS, write_encoder

ROWS = np.arange(40)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), WORDS, width=16, layers=1)


@pytest.fixture
def data(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("AFT_CACHE", str(tmp_path / "cache"))
    static._components.cache_clear()
    return Dataset.open(project / "data")


def blueprint(data: Dataset, encoder: Path, **settings: Any) -> Blueprint:
    section = {"family": "static", "model": str(encoder), "dimensions": 6, "width": 8} | settings
    return student_blueprint(section, "students.x", data, ROWS)


def test_vectors_are_principal_components_of_the_encoders_mean_states(data: Dataset, encoder: Path):
    found = blueprint(data, encoder, weights="none").build().vectors.detach().double().numpy()
    model, library = (
        transformers.BertModel.from_pretrained(encoder),
        Tokenizer.from_file(str(encoder / "tokenizer.json")),
    )
    raw = []
    for word in WORDS:
        with torch.no_grad():
            ids = torch.tensor([library.encode(word).ids])
            assert ids.shape == (1, 3), "[CLS], the word, [SEP]"
            raw.append(model(input_ids=ids).last_hidden_state[0].mean(0).double().numpy())
    centred = np.array(raw) - np.mean(raw, 0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :6] * singular[:6]
    expected /= np.sqrt(np.square(expected).mean())
    numbers = [library.token_to_id(word) for word in WORDS]
    assert np.allclose(np.abs(found[numbers]), np.abs(expected), atol=1e-3)
    assert np.allclose(found[numbers] @ found[numbers].T, expected @ expected.T, atol=1e-3), "signs are of whole axes"
    assert not found[:4].any(), "special tokens"


def test_weights_by_their_definitions():
    counts = [0, 3, 97, 900]
    assert token_weights("none", counts).tolist() == [1, 1, 1, 1]
    assert np.allclose(token_weights("sif", counts), [0.001 / (0.001 + count / 1000) for count in counts])
    harmonic = sum(1 / rank for rank in range(2, 6))
    assert np.allclose(token_weights("zipf", counts), [1e-4 / (1e-4 + 1 / rank / harmonic) for rank in range(2, 6)])


TEXTS = [[3, 1, 1, 2], [0], [4, 2]]


def made(words: str, dropout: float = 0.0) -> Static:
    torch.manual_seed(0)
    settings = Settings(model="m", words=words, width=4, dropout=dropout)
    student = Static(settings, [1, 4], [1.5, 2.5], torch.randn(5, 3), 2).double()
    if words != "frozen":
        torch.nn.init.normal_(student.learned.weight)
    return student


@pytest.mark.parametrize("words", ["frozen", "trained", "joined"])
def test_a_text_is_the_mean_of_its_vectors_and_what_is_learned(words: str):
    student = made(words).eval()
    batch = torch.tensor([n for text in TEXTS for n in text]), torch.tensor([0, 4, 5])
    pooled = []
    for text in TEXTS:
        mean = sum(student.vectors[n] for n in text) / len(text)
        added: Any = 0.0
        if words != "frozen":
            rows, weights = [{1: 1, 4: 2}.get(n, 0) for n in text], [0.0, 1.5, 2.5]
            added = sum(weights[row] * student.learned.weight[row] for row in rows)
        if words == "trained":
            pooled.append(student.project(mean + added / len(text)))
        else:
            pooled.append(student.project(mean) + added / len(text) ** 0.5)
    expected = student.norm(torch.stack(pooled) + student.mix(torch.stack(pooled)))
    features, outputs = student(batch)
    torch.testing.assert_close(features, expected)
    graph = student.graph()
    torch.testing.assert_close(graph.module(*graph.arrange(batch)), outputs)


@pytest.mark.parametrize("words", ["frozen", "trained", "joined"])
def test_training_moves_what_is_learned_alone_and_starts_from_the_encoders_vectors(
    data: Dataset, encoder: Path, words: str
):
    found = blueprint(data, encoder, words=words, min_count=3)
    student, inputs = found.build(), found.inputs(data)
    if words != "frozen":
        assert not student.learned.weight.any()
    before = student.vectors.detach().clone()
    optimizer = torch.optim.AdamW(student.parameters(), 0.1, fused=True)
    student(inputs.batch(ROWS))[1].square().sum().backward()
    optimizer.step()
    assert torch.equal(student.vectors, before)
    if words != "frozen":
        rare = torch.tensor([n for n in range(len(before)) if n not in found.fitted["learned"]])
        assert student.learned.weight.any()
        assert not student.learned.weight[student.place[rare]].any(), "what few rows have learns nothing"


def test_dropout_leaves_words_out_and_keeps_the_mean(data: Dataset):
    student = made("frozen", dropout=0.5).train()
    student.mix.requires_grad_(False)
    numbers, offsets = torch.tensor([1, 2] * 2000), torch.tensor([0])
    torch.manual_seed(0)
    kept = static.kept_at_random(numbers.shape, 0.5, numbers.device)
    torch.manual_seed(0)
    student.mix.eval()
    expected = student.project(((student.vectors[numbers] * kept[:, None]).sum(0) / 0.5 / len(numbers))[None])
    torch.testing.assert_close(student((numbers, offsets))[0], student.norm(expected + student.mix(expected)))


def test_a_checkpoint_needs_no_encoder_and_vectors_are_made_once(
    data: Dataset, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = blueprint(data, encoder)
    student = found.build()
    monkeypatch.setattr(static, "load_body", None)  # from here on, no encoder is run
    static._components.cache_clear()
    assert torch.equal(found.build().vectors, student.vectors)
    save_student(tmp_path / "student", found, student)
    monkeypatch.setenv("AFT_CACHE", str(tmp_path / "empty"))
    static._components.cache_clear()
    _, again = load_student(tmp_path / "student")
    assert torch.equal(again.vectors, student.vectors)


def test_a_text_without_a_token_has_the_vector_0(data: Dataset, encoder: Path):
    found = blueprint(data, encoder)
    numbers, offsets = found.preprocessing()(["\u200b", "word1"])
    assert (numbers.tolist()[0], offsets.tolist()) == (0, [0, 1])
    assert not found.build().vectors[0].any()


def test_an_encoder_that_is_not_there_is_one_line(data: Dataset, tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        blueprint(data, tmp_path / "nowhere")
