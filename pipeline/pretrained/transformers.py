"""Folders of transformers models, for teachers and students: fetching them, and reading their configuration."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers.utils import logging

from pipeline.errors import UserError
from pipeline.files import TEXT_BYTES, read_regular, regular_size
from pipeline.pretrained import hub_problem, locate

WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
TEXTS = (".json", ".txt", ".jinja", ".py")
READ = (*TEXTS, ".model", ".safetensors", ".bin")
"""Endings of what libraries read in a model's folder."""
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def fetch(name: str, revision: str | None = None, pickles: bool = False, code: bool = False) -> Path:
    """The local folder of a model; one on the hub is downloaded first: configuration, tokenizer and weights.

    Args:
        name: a hub name, a local folder, or a folder inside an installed package as `package:NAME/FOLDER`.
        revision: branch, tag or commit on the hub.
        pickles: whether to download `.bin` files as well.
        code: whether to download Python files as well.

    Raises:
        UserError: there is no such folder, something in it is no file, or it cannot be fetched from the hub.
    """
    folder = locate(name)
    if folder.is_dir():
        _check_files(folder)
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or len(folder.parts) > 2:
        raise UserError(f"{name}: no such folder")
    files = ["*.json", "*.txt", "*.model", *WEIGHTS, *(PICKLES if pickles else ()), *(["*.py"] if code else ())]
    try:
        # Modules of a sentence-transformers model have their own folders; other folders are for other programs.
        found = Path(snapshot_download(name, revision=revision, allow_patterns=["modules.json"]))
        inside = [path for path in module_paths(found) if path]
        wanted = [*files, *(f"{path}/{file}" for path in inside for file in files)]
        others = ["*/*"] if not inside else ["onnx/*", "openvino/*"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=others))
    except Exception as error:  # whatever stops a download: no network, no such name, no permission, no space
        raise UserError(
            f"{name}: no such folder here, and it cannot be fetched from the hub: {hub_problem(error, name)}"
        ) from None


def _check_files(folder: Path) -> None:
    """Refuse what libraries would wait for, or read without end: pipes, devices, texts of any size."""
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        if path.suffix in READ and not path.is_dir():
            size = regular_size(path) or 0
            if path.suffix in TEXTS and size > TEXT_BYTES:
                raise UserError(f"{path}: has {size:,} bytes, and no such file has more than {TEXT_BYTES:,}")


def module_paths(folder: Path) -> list[str]:
    """The folders of a sentence-transformers model's modules, relative to its own; none for any other model."""
    values = read_json(folder / "modules.json", [])
    return [str(module.get("path", "")) for module in values if isinstance(module, dict)]


def read_json(path: Path, default: Any = None) -> Any:
    """The values of a JSON file; `default`, if given, if there is no such file.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        values = json.loads(read_regular(path, TEXT_BYTES).decode("utf-8"))
        json.dumps(values, ensure_ascii=False).encode()  # half a character would fail where values are digested
    except FileNotFoundError:
        if default is not None:
            return default
        raise UserError(f"{path.parent}: no model here: {path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None
    return values


def read_config(folder: Path, name: str, code: bool = False) -> Any:
    """The configuration of a model, with the cache of decoders (`use_cache`) off.

    Args:
        folder: the model's folder.
        name: the model's name, for messages.
        code: run the model's own Python code.

    Raises:
        UserError: it is missing or damaged, of an unknown architecture, or needs code that was not asked for.
    """
    own = read_json(folder / "config.json").get("auto_map")
    if own and not code:
        raise UserError(f"{name}: it needs its own Python code; read it, then set `trust_remote_code: true`")
    if own and any("--" in str(value) for value in own.values()):
        raise UserError(
            f"{name}: its Python code is in another repository; copy it to the folder, and say so in `auto_map`"
        )
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=code, local_files_only=True)
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"{name}: cannot load it: {one_line(error)}") from None
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        if hasattr(part, "use_cache"):
            part.use_cache = False
    return config


class PretrainedClassifier(nn.Module):
    """A model for classification, whose body, the part that computes states, is one that is loaded already.

    The body of an encoder-decoder is its encoder; the decoder is one of the layers after the states.

    Args:
        auto: the auto class that loads it, such as `transformers.AutoModelForSequenceClassification`.
        folder, name: of the model; the name is for messages.
        body: the part.
        options: of `from_pretrained`.

    Attributes:
        state: the tensors of the layers after the states.

    Raises:
        UserError: the weights have no such layers.
    """

    def __init__(self, auto: Any, folder: Path, name: str, body: nn.Module, **options: Any):
        super().__init__()
        self.whole, missing = loaded(auto, folder, name, **options)
        holder, part = self.whole, self.whole.base_model_prefix
        prefix = f"{part}."
        if self.whole.config.is_encoder_decoder:
            holder, encoder = self.whole.base_model, self.whole.get_encoder()
            part = next(key for key, module in holder.named_children() if module is encoder)
            prefix += f"{part}."
        own = {key: value for key, value in self.whole.state_dict().items() if not key.startswith(prefix)}
        # A pooler that the body needs for nothing else may be under the classifier.
        if lacking := sorted(key for key in missing if key in own or key.startswith(f"{prefix}pooler.")):
            raise UserError(
                f"{name}: its weights have no {lacking[0]!r}, so they are not of a classifier, and there is no head "
                "`logits`; remove it from `heads`"
            )
        self.state = {key: value.detach() for key, value in own.items()}
        self.body = body
        setattr(holder, part, body)

    def forward(self, **inputs: Any) -> tuple[Any, Tensor]:
        """What the body returns, and the logits [n, c]; one pass for both."""
        results: list[Any] = []
        hook = self.body.register_forward_hook(lambda body, given, result: results.append(result))
        try:
            logits: Tensor = self.whole(**inputs).logits
        finally:
            hook.remove()
        return results[0], logits


def loaded(auto: Any, folder: Path, name: str, **options: Any) -> tuple[Any, Collection[str]]:
    """A model of a folder, and the names of its tensors that the weights lack.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        with quiet():
            model, found = auto.from_pretrained(
                folder, local_files_only=True, dtype="auto", output_loading_info=True, **options
            )
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"{name}: cannot load it: {one_line(error)}") from None
    return model, found["missing_keys"]


def one_line(error: BaseException) -> str:
    """A library's error message in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the progress bars and warnings that loading prints."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
