"""Text models of transformers, for teachers and students: finding the folder, the tokenizer, the body, the length.

The reference is the plain script of the library: `model(**tokenizer(text, truncation=True))`.
"""

import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from huggingface_hub import snapshot_download
from jaxtyping import Float, Int
from tokenizers import normalizers
from torch import Tensor, nn
from transformers.utils import logging

from pipeline.errors import UserError, count
from pipeline.pretrained import hub_problem, locate
from pipeline.provenance import digest_files

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
"""Files that a tokenizer may consist of, in addition to those that its class names."""

LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_encoder_position_embeddings",
    "max_source_positions",
    "max_sequence_length",
    "max_seq_len",
    "n_ctx",
)
"""Names of a model's maximum length in the configurations of architectures."""

WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")

ENGLISH = (
    "A cat",
    "The quick brown fox jumps over the lazy dog.",
    "It was not until the rain had stopped, long after midnight, that 27 of them came home.",
)
"""Texts to test a tokenizer with, in addition to words of its vocabulary."""


def fetch(name: str, revision: str | None = None, pickles: bool = False, code: bool = False) -> Path:
    """The local folder of a model; one on the hub is downloaded first: configuration, tokenizer and weights.

    Args:
        name: a hub name, a local folder, or a folder inside an installed package as `package:NAME/FOLDER`.
        revision: branch, tag or commit on the hub.
        pickles: whether to download `.bin` files as well.
        code: whether to download Python files as well.

    Raises:
        UserError: there is no such folder, or it cannot be fetched from the hub.
    """
    folder = locate(name)
    if folder.is_dir():
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
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if default is not None:
            return default
        raise UserError(f"{path.parent}: no model here: {path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None


Side = Literal["left", "right"]
"""Where a text that is too long loses tokens: `left` keeps its end."""


class TextTokenizer:
    """A model's own tokenizer: turns a text into token numbers, as `tokenizer(text, truncation=True)` does.

    Args:
        folder: the model's folder.
        name: the model's name, for messages.
        code: run the model's own Python code.

    Attributes:
        library: the tokenizer of transformers.
        length: the maximum number of tokens of a text, special tokens included; None until `cut` sets it.
        special: the number of special tokens in every text.
        pad: the token that fills a batch; it is masked, so any token of the model will do.

    Raises:
        UserError: it cannot be loaded, or knows no words: transformers makes an empty tokenizer for a model that was
            saved without its own.
    """

    length: int | None = None
    pad: int

    def __init__(self, folder: Path, name: str, code: bool = False):
        self.name = name
        try:
            with quiet():
                self.library = transformers.AutoTokenizer.from_pretrained(
                    folder, trust_remote_code=code, local_files_only=True
                )
        except Exception as error:  # damaged files fail in many ways, tokenizers with a bare Exception
            raise UserError(f"{name}: its tokenizer cannot be loaded: {one_line(error)}") from None
        self.fast = self.library.backend_tokenizer if getattr(self.library, "is_fast", False) else None
        if self.fast is not None:
            self.fast.no_padding()
            self.fast.no_truncation()
        self.special = int(self.library.num_special_tokens_to_add())
        self.pad = self.library.pad_token_id or 0
        self.pad_type = int(getattr(self.library, "pad_token_type_id", 0) or 0)
        self.samples = self._samples()

    def check_numbers(self, rows: int) -> None:
        """Refuse a tokenizer with words that the model has no embedding for; the padding token is exempt.

        Args:
            rows: the number of rows of the model's embedding.
        """
        beyond = {word for word, number in self.library.get_vocab().items() if number >= rows}
        if beyond := beyond - {self.library.pad_token}:
            raise UserError(
                f"{self.name}: its tokenizer has {min(beyond)!r} and {count(len(beyond) - 1, 'other word')} beyond the "
                f"{rows} rows of the model's embedding; save the tokenizer that belongs to the model"
            )

    def prompt_length(self, prompt: str) -> int:
        """The number of tokens of a prompt in front of a text, including special tokens before it."""
        numbers = self(prompt)[0].tolist()
        return len(numbers) - (numbers[-1] in self.library.all_special_ids)

    @property
    def limit(self) -> int | None:
        """The maximum length in the tokenizer's files."""
        # 1e30 stands for no limit.
        return int(self.library.model_max_length) if self.library.model_max_length < 1e9 else None

    @property
    def types(self) -> bool:
        """Whether it gives token types."""
        return "token_type_ids" in self.library.model_input_names

    def lower(self) -> None:
        """Lower-case texts first, if the tokenizer does not do so already."""
        if self.fast is None:
            raise UserError(f"{self.name}: `do_lower_case` needs a fast tokenizer (tokenizer.json)")
        own = self.fast.normalizer
        if own is None or "Lowercase" not in str(own):
            self.fast.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([own] if own else [])])

    def cut(self, length: int, side: Side | None = None) -> None:
        """From now on cut texts to `length` tokens, on this side or the one given by the tokenizer's files.

        Raises:
            UserError: that leaves no token of the text.
        """
        if length <= self.special:
            raise UserError(
                f"{self.name}: max_length: {length} leaves nothing of a text beside its "
                f"{count(self.special, 'special token')}; set more than {self.special}"
            )
        self.length = length
        self.library.truncation_side = side or self.library.truncation_side
        if self.fast is not None:
            self.fast.enable_truncation(length, direction=self.library.truncation_side)

    def __call__(self, text: str) -> np.ndarray:
        """Token numbers and types [2, l], int64, special tokens included.

        Raises:
            ValueError: the text has no token.
        """
        if self.fast is not None:
            encoded = self.fast.encode(text)
            ids, types = encoded.ids, encoded.type_ids
        else:
            found = self.library(text, truncation=self.length is not None, max_length=self.length)
            ids, types = found["input_ids"], found.get("token_type_ids") or [0] * len(found["input_ids"])
        if not ids:
            raise ValueError("the text has no token")
        return np.array([ids, types], np.int64)

    def digest(self, folder: Path) -> str:
        """A digest of the files in the model's folder that the tokenizer consists of."""
        names = {*TOKENIZER_FILES, *self.library.vocab_files_names.values()}
        return digest_files(folder, sorted(name for name in names if (folder / name).is_file()))

    def _samples(self) -> list[str]:
        """Texts that it should tell apart: words of its vocabulary, and plain English.

        Raises:
            UserError: it does not tell them apart.
        """
        special = set(self.library.all_special_ids)
        words = sorted(number for number in self.library.get_vocab().values() if number not in special)
        chosen = [words[at] for at in np.unique(np.linspace(0, len(words) - 1, 24).astype(int))] if words else []
        own = [str(self.library.decode([number])).strip() for number in chosen]
        own = [text for text in own if text and "\ufffd" not in text]
        mixed = [" ".join(own[first::3]) for first in range(3)] if len(own) >= 6 else []
        samples = [*dict.fromkeys([*own[:2], *mixed, *ENGLISH])]
        # Only texts with more than special tokens, such as the one for unknown words.
        told = {tuple(ids) for ids in map(self._plain, samples) if any(number not in special for number in ids)}
        if len(words) < 2 or len(told) < 2:
            raise UserError(
                f"{self.name}: its tokenizer knows {count(len(words), 'word')} besides special tokens and does not "
                "tell texts apart; save the model's own tokenizer next to its weights"
            )
        return samples

    def _plain(self, text: str) -> list[int]:
        return list(self.library(text, truncation=False)["input_ids"])


class TextBody(nn.Module):
    """The part of a transformers model that turns tokens into states: of an encoder-decoder, the encoder.

    Args:
        model: the transformers model.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        accepts = inspect.signature(self.model.forward).parameters
        anything = any(kind.kind is kind.VAR_KEYWORD for kind in accepts.values())
        self.takes_mask = anything or "attention_mask" in accepts
        self.takes_types = "token_type_ids" in accepts

    def forward(self, ids: Int[Tensor, "n l"], types: Int[Tensor, "n l"], mask: Int[Tensor, "n l"]) -> Tensor:
        """States of the last layer [n, l, d]; those of padding are undefined."""
        return self.with_layers(ids, types, mask, ())[0]

    def with_layers(
        self, ids: Int[Tensor, "n l"], types: Int[Tensor, "n l"], mask: Int[Tensor, "n l"], layers: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """States of the last layer, and of each of some layers, counted from 1, [n, l, d]; one pass for all."""
        more: dict[str, Any] = {"attention_mask": mask} if self.takes_mask else {}
        more |= {"token_type_ids": types} if self.takes_types else {}
        more |= {"output_hidden_states": True} if layers else {}
        result = self.model(input_ids=ids, **more)
        # The first of the hidden states are the embeddings.
        return (result.last_hidden_state, *(result.hidden_states[layer] for layer in layers))

    @torch.inference_mode()
    def depth(self) -> int:
        """The number of layers that give one state per token; 0 if the architecture does not give its layers."""
        ids = torch.full((1, 4), 3)
        more = {"output_hidden_states": True}
        try:
            states = self.model(input_ids=ids, **more).hidden_states
        except Exception:  # architectures without this option fail in many ways
            return 0
        return len(states) - 1 if states and all(state.shape[:2] == ids.shape for state in states) else 0

    @property
    def rows(self) -> int:
        """The number of words that the model has an embedding for."""
        try:
            return int(self.model.get_input_embeddings().weight.shape[0])
        except (NotImplementedError, AttributeError):  # CANINE hashes characters and has no such table
            return sys.maxunicode

    def width(self, name: str) -> int:
        """The width of a token's state.

        Raises:
            UserError: the model does not turn a text alone into one state per token.
        """
        ids = torch.full((1, 4), 3)
        with torch.inference_mode():
            try:
                shape = self(ids, torch.zeros_like(ids), torch.ones_like(ids)).shape
            except Exception as error:  # architectures that need other inputs fail in many ways
                raise UserError(
                    f"{name}: {type(self.model).__name__} gives no states of a text alone: {one_line(error)}"
                ) from None
        if shape[:2] != ids.shape:
            states, tokens = count(shape[1], "state"), count(ids.shape[1], "token")
            raise UserError(f"{name}: {type(self.model).__name__} gives {states} for {tokens}")
        return int(shape[2])

    @torch.inference_mode()
    def alone(self, example: np.ndarray) -> Float[Tensor, "l d"]:
        """States of the tokens of a single text, given as tokens and types [2, l], in float32."""
        ids, types = torch.from_numpy(example[:, None]).to(next(self.parameters()).device)
        return self(ids, types, torch.ones_like(ids))[0].float()

    def first_sees_nothing(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Whether the state of the first token does not depend on those that follow, as in a decoder.

        Args:
            one, other: the tokens and types of two texts that differ [2, l].
        """
        length = min(one.shape[1], other.shape[1])
        one, other = one[:, :length], other[:, :length].copy()
        other[:, 0] = one[:, 0]
        first, second = self.alone(one)[0], self.alone(other)[0]
        return length > 1 and bool((first - second).abs().max() <= 1e-4 * first.abs().max())

    @torch.inference_mode()
    def depends_on_padding(self, short: np.ndarray, long: np.ndarray) -> bool:
        """Whether the states of a short text [2, l] change, by more than rounding, if it is padded to a long one."""
        length = short.shape[1]
        batch = np.stack([np.pad(short, ((0, 0), (0, long.shape[1] - length))), long], axis=1)
        ids, types = torch.from_numpy(batch)
        mask = torch.from_numpy(np.arange(long.shape[1]) < np.array([[length], [long.shape[1]]])).long()
        cosines = nn.functional.cosine_similarity(self(ids, types, mask)[0, :length], self.alone(short), dim=1)
        return not bool(1 - cosines.mean() < 1e-5)

    def greatest(self, example: np.ndarray, wanted: int) -> int:
        """The maximum number of tokens, up to `wanted`, that the model has positions for.

        The model is run up to its first layer, which is cheap, so no table of offsets is needed: of RoBERTa's 514
        positions, 512 can be used. It runs on the CPU, because on a GPU a wrong position ends the process.

        Args:
            example: a text's tokens and types [2, l].
            wanted: at least 1.
        """
        if self._fits(example, wanted):
            return wanted
        fits, fails = 1, wanted
        while fails - fits > 1:
            middle = (fits + fails) // 2
            fits, fails = (middle, fails) if self._fits(example, middle) else (fits, middle)
        return fits

    @torch.inference_mode()
    def _fits(self, example: np.ndarray, length: int) -> bool:
        ids, types = (torch.from_numpy(np.resize(numbers, (1, length))) for numbers in example)
        layers = [layer for module in self.modules() if isinstance(module, nn.ModuleList) for layer in module]
        hooks = [layer.register_forward_pre_hook(_stop) for layer in layers if not isinstance(layer, nn.ModuleList)]
        try:
            self(ids, types, torch.ones_like(ids))
        except _Reached:
            return True
        except (IndexError, RuntimeError, ValueError, AssertionError):
            return False
        finally:
            for hook in hooks:
                hook.remove()
        return True


class _Reached(Exception):
    """Raised when the first layer of a model is reached."""


def _stop(*_: Any) -> None:
    raise _Reached


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


def load_body(
    folder: Path, name: str, config: Any, code: bool = False, pickles: bool = False
) -> tuple[TextBody, dict[str, Tensor]]:
    """A model with its weights, and the names of its tensors that were in the files.

    Raises:
        UserError: weights are missing or damaged.
    """
    try:
        with quiet():
            model, found = _family(config).from_pretrained(
                folder,
                config=config,
                dtype="auto",
                use_safetensors=None if pickles else True,
                output_loading_info=True,
                trust_remote_code=code,
                local_files_only=True,
            )
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"{name}: cannot load it: {one_line(error)}") from None
    body = TextBody(model)
    whole = model.state_dict(keep_vars=True)
    own = {id(tensor) for tensor in body.model.state_dict(keep_vars=True).values()}
    absent = {key for key in found["missing_keys"] if id(whole.get(key)) in own}
    # Only states are read here. The pooler is a layer on top of them, which many checkpoints lack.
    if missing := sorted(key for key in absent if not key.startswith("pooler.")):
        raise UserError(
            f"{name}: its weights lack {len(missing)} of the model's {count(len(own), 'tensor')}, such as "
            f"{missing[0]!r}; save them under the names of transformers"
        )
    made_up = {id(whole[key]) for key in absent}
    state = body.model.state_dict(keep_vars=True).items()
    return body, {key: tensor.detach() for key, tensor in state if id(tensor) not in made_up}


def untrained_body(config: Any) -> TextBody:
    """A model with random weights, ready for evaluation."""
    return TextBody(_family(config).from_config(config)).eval()


def _family(config: Any) -> Any:
    """The auto class that loads an encoder of texts."""
    # T5 and similar models are saved as a whole or as an encoder; the first class reads both.
    encodes = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    return transformers.AutoModelForTextEncoding if encodes else transformers.AutoModel


def own_length(config: Any, tokenizer: TextTokenizer) -> int | None:
    """A model's maximum length: the smallest that its configuration or its tokenizer gives."""
    text = config.get_text_config()
    named = [getattr(text, name, None) for name in LENGTHS]
    # XLNet has -1.
    return min((int(limit) for limit in [tokenizer.limit, *named] if limit and limit > 0), default=None)


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
