"""Text encoders of transformers: the mean over a text's tokens, its first token, or all of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from huggingface_hub import snapshot_download
from pydantic import Field
from torch import Tensor, nn
from transformers.utils import logging

from pipeline import params, pretrained
from pipeline.errors import UserError
from pipeline.provenance import digest_files, digest_of
from pipeline.teachers import Precision, Teacher

VERSION = 1
"""Raised whenever this file gives other features for the same recipe."""

Head = Literal["pooled", "cls", "tokens"]

VOLATILE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "use_cache"}
"""Keys of a config.json that do not change what an encoder computes."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        model: a hub name, a local folder, or a folder inside an installed package as `package:NAME/FOLDER`.
        revision: branch, tag or commit on the hub; a commit keeps the weights the same for good.
        pooling: the head `pooled` is the `mean` over the tokens that are not padding, or `cls`, the first one.
        max_length: in tokens; longer texts are cut. The model's own limit if None.
        heads: which to keep; `tokens` is every token's state, zeros after a text's last one.
        trust_remote_code: run the model's own Python code from the hub or the folder.
        safetensors_only: false also accepts `.bin` files, of which tensors alone are read.
    """

    model: str
    revision: str | None = None
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int | None = Field(default=None, ge=1)
    heads: tuple[Head, ...] = Field(default=("pooled",), min_length=1, strict=False)
    trust_remote_code: bool = False
    safetensors_only: bool = True


def load(settings: Settings, precision: Precision, device: torch.device) -> "TextEncoder":
    """The teacher, ready on a device.

    Raises:
        UserError: the model is not there and cannot be fetched, its architecture is unknown, tensors are missing, it
            has no fast tokenizer, or its length is unlimited and `max_length` is not set.
    """
    folder = _folder(settings)
    options = {"trust_remote_code": settings.trust_remote_code, "local_files_only": True}
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            # An encoder-decoder is asked for its encoder alone; the plain class would want a decoder's input too.
            family = transformers.AutoModelForTextEncoding if config.is_encoder_decoder else transformers.AutoModel
            model, found = family.from_pretrained(
                folder,
                config=config,
                dtype="auto",
                use_safetensors=settings.safetensors_only or None,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # damaged files fail in many ways, tokenizers with a bare Exception
        if not settings.trust_remote_code and "auto_map" in _config(folder):
            raise UserError(
                f"{settings.model}: it brings Python code of its own; read it, then set `trust_remote_code: true`"
            ) from None
        raise UserError(f"{settings.model}: cannot load it: {_line(error)}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{settings.model}: it has no fast tokenizer (tokenizer.json); save one next to its weights")
    # The pooler is a layer on top of the states, which are all that is read here; many checkpoints lack it.
    missing = {name for name in found["missing_keys"] if not name.startswith("pooler.")}
    if missing:
        raise UserError(f"{settings.model}: its weights lack {min(missing)!r} (and {len(missing) - 1} more)")
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in found["missing_keys"]}
    limit = settings.max_length or _limit(folder, tokenizer, config)
    if limit is None:
        raise UserError(f"{settings.model}: its texts have no greatest length; set `max_length`")
    recipe = {
        "family": "transformers",
        "version": VERSION,
        "architecture": type(model).__name__,
        "config": digest_of(_config(folder)),
        "weights": pretrained.digest(state),
        "tokenizer": digest_files(folder, [name for name in TOKENIZER_FILES if (folder / name).is_file()]),
        "pooling": settings.pooling,
        "max_length": limit,
        "precision": precision,
    }
    model = model.to(dtype=getattr(torch, precision), device=device).eval().requires_grad_(False)
    return TextEncoder(model, tokenizer, recipe, settings.heads, device)


class TextEncoder(Teacher):
    """A transformers encoder. A transformed text is its token numbers [l], int64."""

    kind: Literal["text"] = "text"
    uniform = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        recipe: Mapping[str, Any],
        heads: Sequence[Head],
        device: torch.device,
    ):
        self.model = model
        self.recipe = recipe
        self.device = device
        self.length: int = recipe["max_length"]
        self.width: int = model.config.hidden_size
        self.pad = tokenizer.pad_token_id or 0
        self.tokenizer = tokenizer.backend_tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.length)
        self.heads = {head: (self.length, self.width) if head == "tokens" else (self.width,) for head in heads}

    def transform(self, content: Any) -> np.ndarray:
        """Token numbers, special tokens included, cut to `max_length`."""
        numbers = self.tokenizer.encode(content).ids
        if not numbers:
            raise ValueError("a text without a single token")
        return np.array(numbers, np.int64)

    def cost(self, example: np.ndarray) -> int:
        """How many tokens."""
        return len(example)

    def collate(self, examples: Sequence[np.ndarray]) -> Mapping[str, Tensor]:
        """Token numbers and which of them are not padding, [n, longest], int64."""
        lengths = np.array([len(example) for example in examples])
        mask = np.arange(lengths.max()) < lengths[:, None]
        numbers = np.full(mask.shape, self.pad, np.int64)
        numbers[mask] = np.concatenate(examples)
        return {"input_ids": torch.from_numpy(numbers), "attention_mask": torch.from_numpy(mask.astype(np.int64))}

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """States of the last layer, pooled in float32: pooled [n, d], cls [n, d], tokens [n, max_length, d]."""
        states = self.model(**batch).last_hidden_state.float()
        states = states * batch["attention_mask"][..., None]
        outputs = {}
        for head in self.heads:
            if head == "tokens":
                outputs[head] = nn.functional.pad(states, (0, 0, 0, self.length - states.shape[1]))
            elif head == "cls" or self.recipe["pooling"] == "cls":
                outputs[head] = states[:, 0]
            else:
                outputs[head] = states.sum(1) / batch["attention_mask"].sum(1, keepdim=True)
        return outputs


def _folder(settings: Settings) -> Path:
    """The local folder of a model; one on the hub is downloaded first: configuration, tokenizer and weights."""
    folder = pretrained.locate(settings.model)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or settings.model.startswith((".", "~")) or len(folder.parts) > 2:
        raise UserError(f"{settings.model}: no such folder")
    files = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors"]
    files += [] if settings.safetensors_only else ["pytorch_model*.bin"]
    files += ["*.py"] if settings.trust_remote_code else []
    try:
        return Path(
            snapshot_download(settings.model, revision=settings.revision, allow_patterns=files, ignore_patterns=["*/*"])
        )
    except Exception as error:  # whatever stops a download: no network, no such name, no permission, no space
        raise UserError(
            f"{settings.model}: no such folder here, and it cannot be fetched from the hub: {_line(error)}"
        ) from None


def _config(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no model here: config.json: {_line(error)}") from None
    return {key: value for key, value in values.items() if key not in VOLATILE}


def _limit(folder: Path, tokenizer: Any, config: Any) -> int | None:
    """The length that a model was trained for: sentence-transformers' own file, else the tokenizer's or the model's."""
    own = folder / "sentence_bert_config.json"
    if own.is_file() and (limit := json.loads(own.read_text(encoding="utf-8")).get("max_seq_length")):
        return int(limit)
    # A tokenizer without a limit has 1e30.
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    return min((int(limit) for limit in limits if limit and limit < 1e9), default=None)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and advice that loading prints."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
