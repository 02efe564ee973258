"""The configuration of a sentence-transformers folder: its modules, its prompts, and the maximum length of texts.

The reference is `SentenceTransformer.encode`, whose result is the head `pooled`. Anything unknown is refused, because
ignoring it would give features of another model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import UserError, listed
from pipeline.pretrained.transformers import one_line, read_json
from pipeline.teachers._pooling import Pooling

CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names that the settings of the module Transformer have had."""

MODES: dict[str, Pooling] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted",
    "lasttoken": "last",
}
"""Its names for the pooling modes, in the order in which several are concatenated."""

OLD_MODES = {
    f"pooling_mode_{old}": mode
    for old, mode in zip(
        ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"),
        MODES.values(),
        strict=True,
    )
}

HARMLESS = {"torch_dtype", "dtype", "attn_implementation", "trust_remote_code"}
"""Arguments of a model that may be ignored: they are settings here, or change no more than rounding."""


@dataclass(frozen=True)
class Modules:
    """How a model's states become its features.

    Attributes:
        folder: the folder of the transformers model.
        pooling: the pooling modes, whose results are concatenated.
        include_prompt: whether the tokens of the prompt are pooled as well.
        layers: the layers after the pooling, in order.
        names: names of these layers, for messages and for the recipe.
        prompts: the prompts, by name.
        prompt: the name of the default prompt.
        max_length: in tokens; None for the model's own.
        lower: whether texts are lower-cased first.
    """

    folder: Path
    pooling: tuple[Pooling, ...] = ("mean",)
    include_prompt: bool = True
    layers: nn.Sequential = field(default_factory=nn.Sequential)
    names: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    max_length: int | None = None
    lower: bool = False

    def __str__(self) -> str:
        return ", ".join((" + ".join(self.pooling), *self.names))


def read_modules(folder: Path, name: str, pickles: bool = False) -> Modules:
    """Read the configuration of a folder; without a `modules.json`, the pooling is the mean over the tokens.

    Args:
        folder: a folder with `modules.json`, or a plain transformers model.
        name: the model's name, for messages.
        pickles: whether weights of layers may be `.bin` files.

    Raises:
        UserError: a file is damaged, or holds something unknown.
    """
    listed_modules = read_json(folder / "modules.json", [])
    if not listed_modules:
        return Modules(folder, **_lengths(folder, name))
    try:
        kinds = [_kind(module["type"], name) for module in listed_modules]
        paths = [folder / module["path"] for module in listed_modules]
        if kinds[:2] != ["Transformer", "Pooling"]:
            raise UserError(
                f"{name}: modules.json: {', '.join(kinds)}: only models that start with Transformer and Pooling are "
                "supported; choose another model"
            )
        poolings, include_prompt = _pooling(read_json(paths[1] / "config.json"), name)
        layers, names = [], []
        for kind, path in zip(kinds[2:], paths[2:], strict=True):
            layer, described = _layer(kind, path, name, pickles)
            layers.append(layer)
            names.append(described)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{name}: modules.json: not as sentence-transformers writes it ({one_line(error)})") from None
    more = read_json(folder / "config_sentence_transformers.json", {})
    kind = more.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UserError(f"{name}: a {kind} does not give one vector per text; choose a SentenceTransformer")
    return Modules(
        folder=paths[0],
        pooling=poolings,
        include_prompt=include_prompt,
        layers=nn.Sequential(*layers),
        names=tuple(names),
        prompts={key: text or "" for key, text in (more.get("prompts") or {}).items()},
        prompt=more.get("default_prompt_name"),
        **_lengths(paths[0], name),
    )


def choose_prompt(modules: Modules, asked: str | None, name: str) -> str:
    """The prompt in front of every text: the model's default, one of its prompts by name, or the given text.

    Raises:
        UserError: there is no prompt with that name.
    """
    if asked is None:
        asked = modules.prompt
        if asked is None:
            return ""
        if asked not in modules.prompts:
            raise UserError(f"{name}: its default prompt {asked!r} is not among its prompts; set `prompt`")
    if asked in modules.prompts:
        return modules.prompts[asked]
    if asked and asked.replace("_", "").replace("-", "").isalnum():
        raise UserError(
            f"{name}: no prompt named {asked!r}; there are {listed(list(modules.prompts))}; a prompt of your own is "
            "written in full, such as `prompt: 'query: '`"
        )
    return asked


def _kind(type_: str, name: str) -> str:
    if not type_.startswith("sentence_transformers."):
        raise UserError(f"{name}: modules.json: {type_} is custom code, which is not run; choose another model")
    return type_.rpartition(".")[2]


def _lengths(folder: Path, name: str) -> dict[str, Any]:
    """Length and lower-casing from the settings of the module Transformer."""
    file = next((file for file in CONFIGS if (folder / file).is_file()), None)
    if file is None:
        return {}
    values = read_json(folder / file)
    for key in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"):
        if unknown := sorted(set(values.get(key) or {}) - HARMLESS):
            raise UserError(f"{name}: {file}: `{key}` sets {listed(unknown)}, which is not supported")
    text = (values.get("modality_config") or {}).get("text", {"method_output_name": "last_hidden_state"})
    plain = text.get("method_output_name") == "last_hidden_state" and "message" not in (
        values.get("modality_config") or {}
    )
    if values.get("processing_kwargs") or not plain or values.get("transformer_task", TASK) != TASK:
        raise UserError(f"{name}: {file}: it does more than turn texts into states, which is not supported")
    return {"max_length": values.get("max_seq_length"), "lower": bool(values.get("do_lower_case"))}


TASK = "feature-extraction"


def _pooling(values: Mapping[str, Any], name: str) -> tuple[tuple[Pooling, ...], bool]:
    """The modes of a module Pooling, and whether they include the prompt."""
    asked = values.get("pooling_mode")
    if asked is not None:
        asked = [asked] if isinstance(asked, str) else asked
        if unknown := [mode for mode in asked if mode not in MODES]:
            raise UserError(f"{name}: unknown pooling {listed(unknown)}; there are {listed(list(MODES))}")
        modes = [MODES[mode] for mode in asked]
    else:
        modes = [mode for key, mode in OLD_MODES.items() if values.get(key)]
    return tuple(modes or ["mean"]), bool(values.get("include_prompt", True))


def _layer(kind: str, path: Path, name: str, pickles: bool) -> tuple[nn.Module, str]:
    """A module after the pooling, and its name."""
    values = read_json(path / "config.json", {})
    if (values.get("module_input_name") or "sentence_embedding") != "sentence_embedding" or (
        values.get("module_output_name") or "sentence_embedding"
    ) != "sentence_embedding":
        raise UserError(f"{name}: its module {kind} works on tokens, which is not supported; choose another model")
    match kind:
        case "Normalize":
            return Normalize(), kind
        case "Dropout":
            return nn.Identity(), kind
        case "Dense":
            dense = Dense(values, name)
            _fill(dense, _weights(path, name, pickles), f"{name}: {path.name}")
            return dense, f"Dense {values['out_features']} {type(dense.activation).__name__}"
        case "LayerNorm":
            norm = nn.LayerNorm(values["dimension"])
            state = {key.removeprefix("norm."): tensor for key, tensor in _weights(path, name, pickles).items()}
            _fill(norm, state, f"{name}: {path.name}")
            return norm, kind
    raise UserError(f"{name}: modules.json: its module {kind} is not supported; choose another model")


def _weights(path: Path, name: str, pickles: bool) -> dict[str, Tensor]:
    try:
        if (path / "model.safetensors").is_file():
            return load_file(path / "model.safetensors")
        if pickles:
            state: dict[str, Tensor] = torch.load(path / "pytorch_model.bin", map_location="cpu", weights_only=True)
            return state
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"{name}: {path.name}: its weights cannot be read: {one_line(error)}") from None
    raise UserError(f"{name}: {path.name} has no model.safetensors; `safetensors_only: false` also takes .bin files")


def _fill(layer: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    try:
        layer.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{where}: its weights do not fit its config.json: {one_line(error)}") from None


class Normalize(nn.Module):
    """Scales features to L2 norm 1."""

    def forward(self, features: Tensor) -> Tensor:
        """Each row divided by its norm."""
        return nn.functional.normalize(features, dim=-1)


class Dense(nn.Module):
    """A linear layer with an activation, and a residual connection if its configuration has one.

    Args:
        values: its config.json.
        name: the model's name, for messages.
    """

    def __init__(self, values: Mapping[str, Any], name: str):
        super().__init__()
        wide, narrow = values["in_features"], values["out_features"]
        self.linear = nn.Linear(wide, narrow, bias=values.get("bias", True))
        module, _, kind = values.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")
        known = getattr(nn, kind, None) if module.startswith("torch.nn") else None
        if not (isinstance(known, type) and issubclass(known, nn.Module)):
            raise UserError(f"{name}: its module Dense has the activation {module}.{kind}, which is not in torch.nn")
        self.activation = known()
        self.residual: nn.Module | None = None
        if values.get("use_residual"):
            self.residual = nn.Identity() if wide == narrow else nn.Linear(wide, narrow, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """[n, out_features]."""
        out: Tensor = self.activation(self.linear(features))
        return out + self.residual(features) if self.residual is not None else out
