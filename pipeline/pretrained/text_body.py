"""The part of a text model of transformers that turns tokens into states: its weights, its layers, its positions.

The reference is the plain script of the library: `model(**tokenizer(text, truncation=True))`.
"""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.errors import UserError, count
from pipeline.pretrained.text_tokenizer import TextTokenizer
from pipeline.pretrained.transformers import PretrainedClassifier, loaded, one_line

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

LONG_ENOUGH = 8
"""Tokens that every model takes, which some do not of fewer."""


class TextBody(nn.Module):
    """The part of a transformers model that turns tokens into states: of an encoder-decoder, the encoder.

    Args:
        model: the transformers model.

    Attributes:
        classifier: a model for classification around it, if `add_classifier` has loaded one.
        end: the token from which the classifier of an encoder-decoder reads; it takes texts together that have as many.
    """

    classifier: PretrainedClassifier | None
    end: int | None

    def __init__(self, model: Any):
        super().__init__()
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.classifier = self.end = None
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
        return self.with_logits(ids, types, mask, layers)[0]

    def with_logits(
        self, ids: Int[Tensor, "n l"], types: Int[Tensor, "n l"], mask: Int[Tensor, "n l"], layers: Sequence[int] = ()
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The same states, and the logits of the classifier [n, c] if there is one; one pass for all."""
        more: dict[str, Any] = {"attention_mask": mask} if self.takes_mask else {}
        more |= {"token_type_ids": types} if self.takes_types else {}
        more |= {"output_hidden_states": True} if layers else {}
        if self.classifier is None:
            result, logits = self.model(input_ids=ids, **more), None
        else:
            result, logits = self.classifier(input_ids=ids, **more)
        # The first of the hidden states are the embeddings.
        return (result.last_hidden_state, *(result.hidden_states[layer] for layer in layers)), logits

    def add_classifier(self, folder: Path, name: str, config: Any, code: bool, pickles: bool) -> dict[str, Tensor]:
        """Load the layers after the states, of a model for classification; returns their tensors.

        Raises:
            UserError: the weights have none, or they make no logits of a text alone.
        """
        if config.get_text_config().pad_token_id is None:
            raise UserError(
                f"{name}: its config.json has no `pad_token_id`, by which its classifier finds the last token; set it"
            )
        auto = transformers.AutoModelForSequenceClassification
        self.classifier = PretrainedClassifier(auto, folder, name, self.model, **_options(config, code, pickles))
        self.end = config.eos_token_id if config.is_encoder_decoder else None
        ids = torch.full((1, LONG_ENOUGH), 3 if self.end is None else self.end)
        with torch.inference_mode():
            try:
                self.with_logits(ids, torch.zeros_like(ids), torch.ones_like(ids))
            except Exception as error:  # configurations that lack something fail in many ways
                whole = type(self.classifier.whole).__name__
                raise UserError(f"{name}: {whole} gives no logits of a text alone: {one_line(error)}") from None
        return self.classifier.state

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
        ids = torch.full((1, LONG_ENOUGH), 3)
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
    def shortest(self) -> int:
        """The least number of tokens that the model takes: 1, except where layers halve a text, as Funnel's do."""
        for length in range(1, LONG_ENOUGH):
            ids = torch.full((1, length), 3)
            try:
                self(ids, torch.zeros_like(ids), torch.ones_like(ids))
            except Exception:  # each architecture fails in its own way
                continue
            return length
        return LONG_ENOUGH

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


def load_body(
    folder: Path, name: str, config: Any, code: bool = False, pickles: bool = False
) -> tuple[TextBody, dict[str, Tensor]]:
    """A model with its weights, and the names of its tensors that were in the files.

    Raises:
        UserError: weights are missing or damaged.
    """
    model, missing_keys = loaded(_family(config), folder, name, **_options(config, code, pickles))
    body = TextBody(model)
    whole = model.state_dict(keep_vars=True)
    own = {id(tensor) for tensor in body.model.state_dict(keep_vars=True).values()}
    absent = {key for key in missing_keys if id(whole.get(key)) in own}
    # Only states are read here. The pooler is a layer on top of them, which many checkpoints lack.
    if missing := sorted(key for key in absent if not key.startswith("pooler.")):
        raise UserError(
            f"{name}: its weights lack {len(missing)} of the model's {count(len(own), 'tensor')}, such as "
            f"{missing[0]!r}; save them under the names of transformers"
        )
    made_up = {id(whole[key]) for key in absent}
    state = body.model.state_dict(keep_vars=True).items()
    return body, {key: tensor.detach() for key, tensor in state if id(tensor) not in made_up}


def _options(config: Any, code: bool, pickles: bool) -> dict[str, Any]:
    """Of `from_pretrained`."""
    return {"config": config, "use_safetensors": None if pickles else True, "trust_remote_code": code}


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
