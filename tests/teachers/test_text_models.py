"""Text teachers against the plain recipe of transformers, `model(**tokenizer(text))`, one text at a time."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import UserError
from pipeline.extraction import Replicas
from pipeline.params import parse
from pipeline.provenance import digest_of
from pipeline.teachers import transformers
from pipeline.teachers._pooling import Pooling, pool
from pipeline.teachers.transformers import Settings, TextEncoder

from .zoo import BOTH, DECODERS, ENCODERS, WORDS, write_model, write_tokenizer

CPU = torch.device("cpu")
TEXTS = [" ".join(np.random.default_rng(n).choice(WORDS, n)) for n in (1, 4, 9, 30, 120, 2)]


def load(model: Path, precision: str = "float32", **settings: Any) -> TextEncoder:
    return transformers.load(parse(Settings, {"model": str(model), **settings}, "teachers.x"), precision, CPU)


def features_of(teacher: TextEncoder, texts: list[str] = TEXTS) -> dict[str, Tensor]:
    return teacher.forward(teacher.collate([teacher.transform(text) for text in texts]))


def plain_states(folder: Path, texts: list[str] = TEXTS, **options: Any) -> list[Tensor]:
    """States of each text's tokens, alone and so without padding, as a plain script gets them."""
    tokenizer, model = hf.AutoTokenizer.from_pretrained(folder), hf.AutoModel.from_pretrained(folder).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    accepted = inspect.signature(model.forward).parameters
    states = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, return_tensors="pt", **options)
        with torch.no_grad():
            outputs = model(**{name: value for name, value in inputs.items() if name in accepted})
        states.append(outputs.last_hidden_state[0])
    return states


def assert_same(found: Tensor, expected: list[Tensor]) -> None:
    assert torch.cosine_similarity(found, torch.stack(expected)).min() >= 0.9999
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("bert")
    write_model(folder, "bert")
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("llama")
    write_model(folder, "llama")
    return folder


@pytest.fixture
def copy(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


QUICK = ("bert", "fnet", "llama", "gpt2", "bart", "t5")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in ENCODERS + DECODERS + BOTH]
)
def test_equals_the_plain_recipe_in_any_batch(kind: str, tmp_path: Path) -> None:
    write_model(tmp_path, kind)
    teacher = load(tmp_path, heads=["pooled", "tokens"])
    found = features_of(teacher)
    # Funnel with three blocks, as published, fails for fewer than five tokens.
    taken = slice(1, 5) if kind == "funnel" else slice(None)
    states = plain_states(tmp_path, TEXTS[taken])
    assert_same(found["pooled"][taken], [state.mean(0) for state in states])
    for tokens, state in zip(found["tokens"][taken], states, strict=True):
        torch.testing.assert_close(tokens[: len(state)], state, rtol=1e-3, atol=2e-3)
        assert tokens[: len(state)].any(1).all() and not tokens[len(state) :].any(), "zeros are padding, and only they"
    # Nor on a batch that is computed at the same time.
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        texts = [TEXTS[taken], TEXTS[taken][::-1]] * 4
        at_once = list(Replicas(teacher).map(lambda copy, each: features_of(copy, each)["pooled"], texts))
    finally:
        torch.set_num_threads(before)
    for number, pooled in enumerate(at_once):
        torch.testing.assert_close(
            pooled.flip(0) if number % 2 else pooled, found["pooled"][taken], rtol=1e-3, atol=2e-3
        )


@pytest.mark.parametrize(
    ("mode", "formula"),
    [
        ("mean", lambda x: sum(x) / len(x)),
        ("mean_sqrt_len", lambda x: sum(x) / len(x) ** 0.5),
        ("cls", lambda x: x[0]),
        ("last", lambda x: x[-1]),
        ("max", lambda x: [max(column) for column in zip(*x, strict=True)]),
        ("weighted", lambda x: sum((k + 1) * y for k, y in enumerate(x)) / sum(range(1, len(x) + 1))),
    ],
)
@pytest.mark.parametrize("left", [False, True])
def test_pooling_equals_its_formula_with_padding_on_either_side(mode: Pooling, formula: Any, left: bool) -> None:
    states = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = [5, 1, 3]
    mask = torch.tensor([[int(k >= 5 - n if left else k < n) for k in range(5)] for n in lengths])
    found = pool(states, mask, [mode])
    for row, own, length in zip(found, states, lengths, strict=True):
        rows = own[5 - length :] if left else own[:length]
        np.testing.assert_allclose(row, formula(list(rows.numpy())), rtol=1e-6)
    assert torch.equal(pool(states, mask, ["max", mode])[:, 4:], found), "several poolings are joined in their order"


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoders_last_token_is_found_with_padding_on_either_side(llama: Path, tmp_path: Path, side: str) -> None:
    shutil.copytree(llama, tmp_path / "m")
    change_json(tmp_path / "m" / "tokenizer_config.json", padding_side=side)
    expected = plain_states(tmp_path / "m")
    assert_same(features_of(load(tmp_path / "m", pooling="last"))["pooled"], [state[-1] for state in expected])
    weights = [torch.arange(1, len(state) + 1)[:, None] for state in expected]
    weighted = [(state * weight).sum(0) / weight.sum() for state, weight in zip(expected, weights, strict=True)]
    assert_same(features_of(load(tmp_path / "m", pooling="weighted"))["pooled"], weighted)


@pytest.mark.parametrize("settings", [{"pooling": "cls"}, {"heads": ["pooled", "cls"]}])
def test_the_first_token_of_a_decoder_is_refused(llama: Path, bert: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"`cls` takes the first token.*does not see the text.*`pooling: last`"):
        load(llama, **settings)
    load(bert, **settings)


def test_a_decoder_runs_without_a_cache(llama: Path) -> None:
    assert json.loads((llama / "config.json").read_text())["use_cache"]
    assert load(llama).model.model.config.use_cache is False


def test_a_pad_token_without_an_embedding_is_no_harm_and_any_other_is_refused(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "m")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "m")
    tokenizer.add_tokens([f"more{number}" for number in range(64 - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "[NEW PAD]"})
    assert tokenizer.pad_token_id == 64, "the embedding has 64 rows"
    tokenizer.save_pretrained(tmp_path / "m")
    assert_same(features_of(load(tmp_path / "m"))["pooled"], [state.mean(0) for state in plain_states(llama)])
    tokenizer.add_tokens(["beyond"])
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(UserError, match=r"'beyond' and 0 other words beyond the 64 rows of the model's embedding"):
        load(tmp_path / "m")


def test_a_model_without_its_tokenizer_is_refused(bert: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(bert / name, tmp_path)
    with pytest.raises(
        UserError, match=r"knows 0 words.*save the model's own tokenizer next to its weights"
    ) as failure:
        load(tmp_path)
    assert "\n" not in str(failure.value)


def test_a_tokenizer_of_another_vocabulary_that_tells_nothing_apart_is_refused(copy: Path) -> None:
    files = json.loads((copy / "tokenizer.json").read_text())
    files["model"]["vocab"] = {"<pad>": 0, "<unk>": 1, "<cls>": 2, "<sep>": 3, "one": 4}
    (copy / "tokenizer.json").write_text(json.dumps(files))
    with pytest.raises(UserError, match="does not tell texts apart"):
        load(copy)


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_texts_are_cut_on_the_side_that_the_tokenizer_says(copy: Path, side: str) -> None:
    change_json(copy / "tokenizer_config.json", truncation_side=side, model_max_length=12)
    found = load(copy)
    assert found.recipe["max_length"] == 12
    assert_same(features_of(found)["pooled"], [state.mean(0) for state in plain_states(copy)])


def test_a_setting_says_on_which_side_long_texts_are_cut(copy: Path) -> None:
    change_json(copy / "tokenizer_config.json", truncation_side="right", model_max_length=12)
    left, right = load(copy, truncation="left"), load(copy, truncation="right")
    change_json(copy / "tokenizer_config.json", truncation_side="left")
    assert_same(features_of(left)["pooled"], [state.mean(0) for state in plain_states(copy)])
    assert left.recipe["truncation"] != right.recipe["truncation"]


@pytest.mark.parametrize("type_of_cls", [0, 1])
def test_types_of_tokens_reach_the_model(copy: Path, type_of_cls: int) -> None:
    files = json.loads((copy / "tokenizer.json").read_text())
    files["post_processor"]["single"][0]["SpecialToken"]["type_id"] = type_of_cls
    (copy / "tokenizer.json").write_text(json.dumps(files))
    change_json(copy / "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    assert load(copy).transform("word1")[1].tolist() == [type_of_cls, 0, 0]
    assert_same(features_of(load(copy))["pooled"], [state.mean(0) for state in plain_states(copy)])


@pytest.mark.parametrize("length", [1, 2])
def test_a_length_that_leaves_nothing_of_a_text_is_refused(bert: Path, length: int) -> None:
    with pytest.raises(UserError, match=rf"max_length: {length} leaves nothing.* 2 special tokens.*more than 2"):
        load(bert, max_length=length)
    assert load(bert, max_length=3).transform("word1 word2").shape == (2, 3)


@pytest.mark.parametrize(
    ("kind", "positions"), [("bert", 130), ("roberta", 129), ("gpt2", 130), ("opt", 130), ("clip_text_model", 130)]
)
def test_a_length_above_the_models_positions_is_refused_when_it_is_loaded(
    kind: str, positions: int, tmp_path: Path
) -> None:
    write_model(tmp_path, kind)
    with pytest.raises(UserError, match=rf"max_length: 131 is more than the model's {positions} positions"):
        load(tmp_path, max_length=131)
    teacher = load(tmp_path, max_length=positions)
    assert features_of(teacher, ["word1 " * 200])["pooled"].isfinite().all()
    change_json(tmp_path / "tokenizer_config.json", model_max_length=int(1e30))
    assert load(tmp_path).recipe["max_length"] == positions, "nothing else says it"


def test_a_model_without_any_limit_asks_for_one(tmp_path: Path) -> None:
    write_model(tmp_path, "xlnet")
    change_json(tmp_path / "tokenizer_config.json", model_max_length=int(1e30))
    with pytest.raises(UserError, match="no maximum length; set `max_length`"):
        load(tmp_path)
    assert_same(
        features_of(load(tmp_path, max_length=64))["pooled"],
        [state.mean(0) for state in plain_states(tmp_path, max_length=64)],
    )


def test_a_model_of_two_towers_is_refused_in_one_line(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = {**small, "vocab_size": 64}, {**small, "image_size": 32, "patch_size": 8}
    hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, model_max_length=16)
    with pytest.raises(UserError, match=r"CLIPModel has a tower .* with `tower: text` reads texts") as failure:
        load(tmp_path)
    assert "\n" not in str(failure.value)


def another(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return 2 * value + 0.1
        case str():
            return f"{value}x"
        case list():
            return [*value, 1]
        case dict():
            return {**value, "odd": 1}
    return 1


@pytest.mark.parametrize("kind", ["bert", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("llama", "t5"))])
def test_each_field_that_matters_gives_another_recipe_or_is_refused(kind: str, tmp_path: Path) -> None:
    write_model(tmp_path / "model", kind)
    recipe = load(tmp_path / "model").recipe
    for file in ("config.json", "tokenizer_config.json"):
        values = json.loads((tmp_path / "model" / file).read_text())
        for key in values.keys() - transformers.VOLATILE:
            shutil.copytree(tmp_path / "model", tmp_path / "copy")
            change_json(tmp_path / "copy" / file, **{key: another(values[key])})
            try:
                assert load(tmp_path / "copy").recipe != recipe, f"{file}: {key}"
            except UserError as error:
                assert "\n" not in str(error)
            shutil.rmtree(tmp_path / "copy")


def test_texts_shorter_than_the_model_takes_are_padded_to_that(tmp_path: Path) -> None:
    """Funnel with three blocks fails for fewer than five tokens."""
    write_model(tmp_path, "funnel")
    with pytest.raises(RuntimeError):
        plain_states(tmp_path, TEXTS[:1])
    teacher = load(tmp_path)
    assert teacher.recipe["shortest"] == 5 and len(teacher.transform(TEXTS[0])[0]) == 3
    found = features_of(teacher)["pooled"]
    assert_same(found[1:5], [state.mean(0) for state in plain_states(tmp_path, TEXTS[1:5])])
    assert_same(features_of(teacher, TEXTS[:1])["pooled"], [found[0]])


@pytest.mark.parametrize("whole", [True, False])
def test_an_encoder_saved_alone_gives_what_the_whole_model_gives(tmp_path: Path, whole: bool) -> None:
    model = write_model(tmp_path, "t5")
    expected = [state.mean(0) for state in plain_states(tmp_path)]
    if not whole:
        hf.T5EncoderModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
        assert not any(name.startswith("decoder") for name in load_file(tmp_path / "model.safetensors"))
    assert_same(features_of(load(tmp_path))["pooled"], expected)
    assert model.config.is_encoder_decoder


def test_what_is_missing_of_a_decoder_is_no_harm(tmp_path: Path) -> None:
    write_model(tmp_path, "bart")
    expected = [state.mean(0) for state in plain_states(tmp_path)]
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".decoder." not in f".{name}" and "shared" not in name}
    assert len(kept) < len(weights)
    save_file({**kept, "shared.weight": weights["shared.weight"]}, tmp_path / "model.safetensors", {"format": "pt"})
    assert_same(features_of(load(tmp_path))["pooled"], expected)
    del kept["encoder.layers.0.fc1.weight"]
    save_file({**kept, "shared.weight": weights["shared.weight"]}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"lack 1 of the model's \d+ tensors, such as 'encoder\.layers\.0\.fc1\.weight'"
    ):
        load(tmp_path)


def test_a_tokenizer_in_python_works(tmp_path: Path) -> None:
    write_model(tmp_path, "t5", vocab_size=384)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    hf.ByT5Tokenizer().save_pretrained(tmp_path)
    texts = ["plain", "ünïcode 😀", "a text that is a good deal longer than the others are"]
    teacher = load(tmp_path, max_length=40)
    states = plain_states(tmp_path, texts, max_length=40)
    assert_same(features_of(teacher, texts)["pooled"], [state.mean(0) for state in states])


def test_a_model_that_depends_on_padding_runs_on_texts_of_one_length(tmp_path: Path) -> None:
    write_model(tmp_path, "fnet")
    teacher = load(tmp_path)
    assert teacher.recipe["padded"] is False and "one length" in " ".join(teacher.notes)
    together, alone = features_of(teacher)["pooled"], [features_of(teacher, [text])["pooled"][0] for text in TEXTS]
    assert_same(together, alone)
    teacher.padded = True
    assert torch.cosine_similarity(features_of(teacher)["pooled"], together).min() < 0.99, "padding would change them"


def test_a_model_that_depends_on_its_batch_or_on_chance_is_refused(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = transformers.TextEncoder._states
    monkeypatch.setattr(
        transformers.TextEncoder,
        "_states",
        lambda self, batch: (
            [states + len(batch["input_ids"]) * torch.arange(32) for states in run(self, batch)[0]],
            None,
        ),
    )
    with pytest.raises(UserError, match=r"depend on the texts that share its batch.*LlamaModel"):
        load(llama)
    monkeypatch.setattr(
        transformers.TextEncoder,
        "_states",
        lambda self, batch: ([states + torch.randn(32) for states in run(self, batch)[0]], None),
    )
    with pytest.raises(UserError, match="the features of a text change from call to call"):
        load(llama)


def test_bfloat16_models_are_not_taken_for_ones_that_depend_on_padding(bert: Path, llama: Path) -> None:
    for folder in (bert, llama):
        assert "padded" not in load(folder, "bfloat16").recipe


CHANGES: dict[str, Any] = {
    "model": None,
    "revision": None,
    "pooling": "max",
    "prompt": "query: ",
    "max_length": 20,
    "truncation": "left",
    "heads": None,
    "zero_shot": None,
    "top": None,
    "trust_remote_code": None,
    "safetensors_only": None,
}
"""A value for each setting that changes features; None where it names the same ones, chooses among them, or is in the
recipe of a head."""


@pytest.mark.parametrize("setting", Settings.model_fields)
def test_every_setting_that_changes_features_is_in_the_recipe(bert: Path, setting: str) -> None:
    assert setting in CHANGES, f"say here how {setting} changes features"
    value = CHANGES[setting]
    if value is not None:
        assert digest_of(load(bert, **{setting: value}).recipe) != digest_of(load(bert).recipe)


@pytest.mark.parametrize("key", [
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "intermediate_size",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "is_decoder", "model_type",
])  # fmt: skip
def test_every_key_of_the_models_configuration_is_in_the_recipe(copy: Path, bert: Path, key: str) -> None:
    values = json.loads((copy / "config.json").read_text())
    other = {
        "hidden_act": "relu",
        "is_decoder": True,
        "model_type": "roberta",
        "layer_norm_eps": 0.1,
        "pad_token_id": 1,
    }
    change_json(copy / "config.json", **{key: other.get(key, 4)})
    assert values.get(key) != other.get(key, 4)
    try:
        changed = load(copy).recipe
    except UserError:
        return
    assert changed["config"] != load(bert).recipe["config"]


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_the_tokenizers_files_are_in_the_recipe(copy: Path, bert: Path, file: str) -> None:
    (copy / file).write_text((copy / file).read_text() + "\n")
    assert load(copy).recipe["tokenizer"] != load(bert).recipe["tokenizer"]


def test_the_models_own_code_is_in_the_recipe(copy: Path) -> None:
    code = "from transformers import BertConfig, BertModel\nclass OwnConfig(BertConfig):\n    model_type = 'own'\n"
    code += "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
    (copy / "own.py").write_text(code)
    change_json(
        copy / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    )
    before = load(copy, trust_remote_code=True).recipe
    (copy / "own.py").write_text(code + "# another comment\n")
    after = load(copy, trust_remote_code=True).recipe
    assert {key for key in before if before[key] != after[key]} == {"code"}
