"""The head `logits` of text models: those of the library's own models for classification, text by text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.teachers import transformers
from pipeline.teachers.transformers import Settings, TextEncoder

from .zoo import WORDS, names, tiny_config, write_tokenizer

KINDS = names("""
    albert bert big_bird convbert deberta-v2 distilbert electra fnet mobilebert modernbert mpnet roberta xlm-roberta
    gemma gpt2 gpt_neox llama mistral opt qwen3
    bart mbart mt5 plbart t5 umt5
""")
TEXTS = [" ".join(WORDS[at : at + length]) for at, length in ((0, 12), (5, 3), (9, 25), (30, 1), (2, 12))]


def write(folder: Path, kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = hf.AutoModelForSequenceClassification.from_config(tiny_config(kind, num_labels=5, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    write_tokenizer(folder, model_max_length=96)
    return model


def load(folder: Path, **settings: Any) -> TextEncoder:
    values = {"model": str(folder), "max_length": 60, **settings}
    return transformers.load(parse(Settings, values, "teachers.x"), "float32", torch.device("cpu"))


def outputs(teacher: TextEncoder, texts: list[str]) -> dict[str, torch.Tensor]:
    return teacher.forward(teacher.collate([teacher.transform(text) for text in texts]))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_librarys_classifier(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    teacher, without = load(tmp_path, heads=["logits", "pooled", "layer:1"]), load(tmp_path, heads=["pooled"])
    found = outputs(teacher, TEXTS)
    assert teacher.heads["logits"] == (5,)
    model = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path)
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).logits
        torch.testing.assert_close(found["logits"][row], expected[0], rtol=1e-3, atol=1e-4)
    assert found["logits"].std(0).min() > 1e-3, "the texts differ"
    # The other heads, and the identity of their features, do not know of it.
    torch.testing.assert_close(found["pooled"], outputs(without, TEXTS)["pooled"], rtol=1e-5, atol=1e-5)
    assert teacher.recipe == without.recipe


def test_the_decoder_of_a_classifier_is_part_of_its_head_alone(tmp_path: Path) -> None:
    write(tmp_path, "bart")
    before = load(tmp_path, heads=["logits"])
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    name = "model.decoder.layers.0.fc1.bias"
    save_file({**state, name: state[name] + 1}, path, {"format": "pt"})
    after = load(tmp_path, heads=["logits"])
    assert before.recipe == after.recipe and before.head_recipes != after.head_recipes


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_texts_with_end_tokens_of_their_own_share_a_batch_with_others(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    teacher = load(tmp_path, heads=["logits", "tokens"])
    texts = [*TEXTS, f"{WORDS[3]} <sep> {WORDS[4]}"]
    assert (teacher.transform(texts[-1])[0] == teacher.model.end).sum() == 2
    together, apart = outputs(teacher, texts), [outputs(teacher, [text]) for text in texts]
    for head, found in together.items():
        torch.testing.assert_close(found, torch.cat([one[head] for one in apart]), rtol=1e-3, atol=1e-4)


def test_other_layers_of_the_classifier_are_another_head(tmp_path: Path) -> None:
    write(tmp_path, "bert")
    before = load(tmp_path, heads=["logits"])
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file({**state, "classifier.bias": state["classifier.bias"] + 1}, path, {"format": "pt"})
    after = load(tmp_path, heads=["logits"])
    assert before.recipe == after.recipe and before.head_recipes != after.head_recipes
    torch.testing.assert_close(outputs(after, TEXTS)["logits"], outputs(before, TEXTS)["logits"] + 1)


def test_the_largest_logits_of_many_classes(tmp_path: Path) -> None:
    write(tmp_path, "distilbert")
    assert load(tmp_path, heads=["logits"], top=1).largest == {"logits": 1}
    with pytest.raises(UserError, match="heads has no `logits`"):
        load(tmp_path, top=1)


def encoder_alone(folder: Path) -> None:
    hf.AutoModel.from_config(tiny_config("bert")).save_pretrained(folder)
    write_tokenizer(folder)


def no_pad(folder: Path) -> None:
    write(folder, "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))


def no_end(folder: Path) -> None:
    write(folder, "bart")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))


def no_start(folder: Path) -> None:
    write(folder, "t5")
    config = json.loads((folder / "config.json").read_text())
    del config["decoder_start_token_id"]
    (folder / "config.json").write_text(json.dumps(config))


def translator(folder: Path) -> None:
    hf.AutoModel.from_config(tiny_config("t5")).save_pretrained(folder)
    write_tokenizer(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (encoder_alone, r"its weights have no 'classifier\.\w+', so they are not of a classifier"),
        (no_pad, "its config.json has no `pad_token_id`, by which its classifier finds the last token; set it"),
        (no_end, "its tokenizer ends no text with the token 7, from which its classifier reads; remove `logits`"),
        (no_start, r"T5ForSequenceClassification gives no logits of a text alone: .*decoder_start_token_id"),
        (translator, r"its weights have no 'classification_head\.\w+\.\w+', so they are not of a classifier"),
    ],
    ids=["encoder", "no pad token", "no end token", "no first token", "encoder-decoder"],
)
def test_what_has_no_classifier_has_no_logits(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        load(tmp_path, heads=["pooled", "logits"])
