"""Text models of transformers and sentence-transformers: encoders, decoders, and the encoders of encoder-decoders."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn

from pipeline import params, pretrained
from pipeline.errors import UserError, count
from pipeline.pretrained.text_body import TextBody, load_body, own_length
from pipeline.pretrained.text_tokenizer import Side, TextTokenizer
from pipeline.pretrained.transformers import fetch, one_line, read_config, read_json
from pipeline.provenance import digest_files, digest_of
from pipeline.sources import ZERO_SHOT
from pipeline.tasks import Task
from pipeline.teachers import Precision, Teacher
from pipeline.teachers._batches import ROUNDING
from pipeline.teachers._logits import check_top, largest
from pipeline.teachers._pooling import Pooling, pool
from pipeline.teachers._sentence_transformers import Modules, choose_prompt, read_modules
from pipeline.teachers._zero_shot import ZeroShot, check_head, embed_prompts, name_the_classes

VERSION = 2
"""Increased whenever this file gives other features for the same recipe."""

Head = (
    Literal["pooled", "cls", "tokens", "logits", "zero_shot"]
    | Annotated[str, StringConstraints(pattern="^layer:[1-9][0-9]*$")]
)

LAYER = "layer:"

VOLATILE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "use_cache"}
"""Keys of a config.json that do not change what an encoder computes."""

TRIED = 768
"""Tokens of the longest text that a model is tested with on loading: BigBird changes its attention at 704."""


class TextZeroShot(ZeroShot):
    """How class names become texts, and cosines logits.

    Attributes:
        template, names: see `ZeroShot`.
        scale: what cosines are multiplied by. Unlike a dual encoder, a text model has none of its own; 20 is that of
            the training loss of sentence-transformers.
    """

    template: str | list[str] = "{}"
    scale: float = Field(20.0, gt=0)


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        model: a hub name, a local folder, or a folder inside an installed package as `package:NAME/FOLDER`.
        revision: branch, tag or commit on the hub; only a commit fixes the weights.
        pooling: how the head `pooled` is computed: `mean` over the tokens that are not padding; `cls`, the first token;
            `last`, the last one; `max`, the maximum of each feature; `weighted`, the mean weighted by the positions of
            the tokens; or `mean_sqrt_len`, the sum divided by the square root of the length. If None, a
            sentence-transformers folder decides, including the layers after its pooling, and any other model has
            `mean`. If it is set, those layers are left out.
        prompt: text in front of every row: the name of one of the model's prompts, or a text such as `"query: "`;
            empty for nothing. The model's default prompt if None.
        max_length: in tokens; longer texts are cut. The model's own limit if None.
        truncation: where they are cut; `left` keeps the end. What the tokenizer's files say if None.
        heads: which to keep; `tokens` is every token's state, followed by zeros; `layer:N` the states after layer N,
            counted from 1, pooled like those of the last one, without the layers of a sentence-transformers folder;
            `logits` the outputs of a model that was trained for classification; `zero_shot` the cosines of `pooled`
            with that of texts made of the names of the dataset's classes, times a scale.
        zero_shot: for the head `zero_shot`: `template`, one text such as "A news report about {}.", or a list of them
            whose features are averaged; the name alone if it is not set. `names`, by class, words to use instead of its
            name; `scale`, by which cosines are multiplied, 20 if it is not set.
        top: of the head `logits`, keep this many of the largest with their classes, and the logsumexp of the others;
            all if None.
        trust_remote_code: run the model's own Python code from the hub or the folder.
        safetensors_only: false also accepts `.bin` files, from which only tensors are read.
    """

    model: str
    revision: str | None = None
    pooling: Pooling | None = None
    prompt: str | None = None
    max_length: int | None = Field(default=None, ge=1)
    truncation: Side | None = None
    heads: tuple[Head, ...] = Field(default=("pooled",), min_length=1, strict=False)
    zero_shot: TextZeroShot | None = None
    top: int | None = Field(default=None, ge=1)
    trust_remote_code: bool = False
    safetensors_only: bool = True

    @model_validator(mode="after")
    def _heads_have_what_is_set(self) -> "Settings":
        check_top(self.top, self.heads)
        check_head(self.zero_shot, self.heads)
        return self


def load(settings: Settings, precision: Precision, device: torch.device) -> "TextEncoder":
    """The teacher, ready on a device.

    Raises:
        UserError: the model is missing and cannot be fetched; its architecture is unknown or its folder asks for
            something unsupported; tensors are missing; its tokenizer is missing or does not fit; `max_length` is not
            set although the model has none, or exceeds its positions; or its features depend on more than the text.
    """
    folder = fetch(
        settings.model, settings.revision, pickles=not settings.safetensors_only, code=settings.trust_remote_code
    )
    modules, notes = _modules(settings, folder)
    code = settings.trust_remote_code
    config = read_config(modules.folder, settings.model, code)
    body, state = load_body(modules.folder, settings.model, config, code, pickles=not settings.safetensors_only)
    if hasattr(body.model, "vision_model") and hasattr(body.model, "text_model"):
        raise UserError(
            f"{settings.model}: {type(body.model).__name__} has a tower of images and one of texts; `family: "
            "dual_encoder` with `tower: text` reads texts with it"
        )
    body.width(settings.model)
    classifier = {}
    if "logits" in settings.heads:
        classifier = body.add_classifier(
            modules.folder, settings.model, config, code, pickles=not settings.safetensors_only
        )
    tokenizer = TextTokenizer(modules.folder, settings.model, code)
    # Some models take token types although their tokenizer gives none, such as GPT-2.
    body.takes_types = body.takes_types and tokenizer.types
    if modules.lower:
        tokenizer.lower()
    prompt = choose_prompt(modules, settings.prompt, settings.model)
    tokenizer.check_numbers(body.rows)
    length = _length(settings, modules, body, tokenizer)
    tokenizer.cut(length, settings.truncation)
    if body.end is not None and body.end not in tokenizer(tokenizer.samples[-1])[0]:
        raise UserError(
            f"{settings.model}: its tokenizer ends no text with the token {body.end}, from which its classifier reads; "
            "remove `logits` from `heads`"
        )
    state |= {f"layers.{name}": tensor for name, tensor in modules.layers.state_dict().items()}
    recipe = {
        "family": "transformers",
        "version": VERSION,
        "architecture": type(body.model).__name__,
        "config": digest_of(_config(modules.folder)),
        "weights": pretrained.digest(state),
        "code": _code(modules.folder),
        "tokenizer": tokenizer.digest(modules.folder),
        "lower": modules.lower,
        "prompt": prompt,
        "pooling": " + ".join(modules.pooling),
        "include_prompt": modules.include_prompt,
        "layers": list(modules.names),
        "max_length": length,
        "precision": precision,
        **({"truncation": settings.truncation} if settings.truncation else {}),
        **({"shortest": shortest} if (shortest := body.shortest()) > 1 else {}),
    }
    _check_layers(settings, body)
    body = body.to(dtype=getattr(torch, precision), device=device)
    zero_shot = settings.zero_shot or TextZeroShot()
    teacher = TextEncoder(body, tokenizer, modules, prompt, recipe, settings.heads, device, notes, zero_shot)
    if classifier:
        teacher.head_recipes = {"logits": {"weights": pretrained.digest(classifier)}}
        teacher.largest, more = largest(settings.model, teacher.heads, settings.top)
        teacher.notes += more
    teacher.try_out(settings.model)
    return teacher


class TextEncoder(Teacher):
    """A model of transformers. A transformed text is its token numbers and types [2, l], int64.

    Texts are always padded on the right, so that a decoder's tokens have the same positions as without padding and do
    not see it. If a model's states depend on padding nevertheless, a batch holds texts of one length only. Texts that
    are shorter than any that the model takes are padded to that length.
    """

    kind: Literal["text"] = "text"
    uniform = False
    replicable = True
    recipe: dict[str, Any]

    def __init__(
        self,
        body: TextBody,
        tokenizer: TextTokenizer,
        modules: Modules,
        prompt: str,
        recipe: Mapping[str, Any],
        heads: Sequence[Head],
        device: torch.device,
        notes: Sequence[str] = (),
        zero_shot: TextZeroShot | None = None,
    ):
        self.model = body.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.pooling = modules.pooling
        self.layers = modules.layers.to(device).eval().requires_grad_(False)
        self.prompt = prompt
        self.prompt_tokens = 0 if modules.include_prompt or not prompt else tokenizer.prompt_length(prompt)
        self.recipe = dict(recipe)
        self.device = device
        self.notes = tuple(notes)
        self.longest = self.length = int(recipe["max_length"])
        self.pad = tokenizer.pad if tokenizer.pad < body.rows else 0
        if body.classifier is not None:
            body.classifier.whole.config.pad_token_id = self.pad  # a decoder's takes the last token before these
        self.padded = True
        self.shortest = int(recipe.get("shortest", 1))
        # The layers in their order in `heads`.
        self.numbers = [int(head.removeprefix(LAYER)) for head in heads if head.startswith(LAYER)]
        with torch.inference_mode():
            (states, *layers), logits = self._states(
                {key: value.to(device) for key, value in self.collate([tokenizer(tokenizer.samples[-1])]).items()}
            )
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=device)
            pooled = pool(states, mask, self.pooling)
            try:
                pooled = self.layers(pooled)
            except RuntimeError as error:
                raise UserError(
                    f"{tokenizer.name}: {modules} do not fit the model, whose pooling gives "
                    f"{count(pooled.shape[1], 'number')} a text: {one_line(error)}"
                ) from None
        shapes: dict[str, tuple[int, ...]] = {
            "pooled": pooled.shape[1:],
            "cls": states.shape[2:],
            "tokens": (self.length, states.shape[2]),
            "logits": () if logits is None else logits.shape[1:],
            **{
                f"{LAYER}{number}": pool(layer, mask, self.pooling).shape[1:]
                for number, layer in zip(self.numbers, layers, strict=True)
            },
        }
        self.asked, self.zero_shot = tuple(heads), zero_shot or TextZeroShot()
        self.names: Tensor | None = None
        self.heads = {head: tuple(shapes[head]) for head in heads if head != ZERO_SHOT}

    def name_classes(self, task: Task) -> None:
        """Run the names of the classes through the model, as if they were rows."""
        if ZERO_SHOT not in self.asked:
            return
        spec = self.zero_shot
        words, prompts = name_the_classes(
            spec, task, self.tokenizer.name, lambda text: self.tokenizer.fits(self.prompt + text), self.length
        )

        def embed(texts: Sequence[str]) -> Tensor:
            batch = self.collate([self.transform(text) for text in texts])
            batch = {key: value.to(self.device) for key, value in batch.items()}
            (states, *_), _ = self._states(batch)
            return self._features(states, batch["attention_mask"])

        self.names = embed_prompts(embed, prompts, len(spec.templates))
        self.heads = {head: self.heads.get(head, (len(words),)) for head in self.asked}
        own = {"classes": list(task.classes), "words": words, "templates": spec.templates, "scale": spec.scale}
        self.head_recipes = {**self.head_recipes, ZERO_SHOT: own}

    def transform(self, content: Any) -> np.ndarray:
        """Token numbers and types, special tokens and the prompt's included, cut to `max_length`."""
        return self.tokenizer(self.prompt + content)

    def cost(self, example: np.ndarray) -> int:
        """The number of tokens."""
        return example.shape[1]

    def collate(self, examples: Sequence[np.ndarray]) -> Mapping[str, Tensor]:
        """Token numbers, their types, and which of them are not padding, [n, longest], int64."""
        lengths = np.array([example.shape[1] for example in examples])
        mask = np.arange(max(lengths.max(), self.shortest)) < lengths[:, None]
        ids, types = np.full(mask.shape, self.pad, np.int64), np.full(mask.shape, self.tokenizer.pad_type, np.int64)
        ids[mask], types[mask] = np.concatenate(examples, axis=1)
        values = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask.astype(np.int64)}
        return {name: torch.from_numpy(array) for name, array in values.items()}

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In float32: pooled [n, p], cls [n, d], tokens [n, max_length, d], pooled layers [n, d], and logits [n, c].

        Logits are those of the model's classes, or with `zero_shot` those of the dataset's.
        """
        (states, *layers), logits = self._states(batch)
        of_layer, mask = dict(zip(self.numbers, layers, strict=True)), batch["attention_mask"]
        outputs = {}
        for head in self.heads:
            if head == "tokens":
                outputs[head] = nn.functional.pad(states, (0, 0, 0, self.length - states.shape[1]))
            elif head == "logits":
                assert logits is not None
                outputs[head] = logits
            elif head == "cls":
                outputs[head] = states[:, 0]
            elif head.startswith(LAYER):
                outputs[head] = pool(of_layer[int(head.removeprefix(LAYER))], self._pooled(mask), self.pooling)
            elif head == ZERO_SHOT:
                assert self.names is not None
                unit = nn.functional.normalize(self._features(states, mask), dim=1)
                outputs[head] = self.zero_shot.scale * (unit @ self.names.T)
            else:
                outputs[head] = self._features(states, mask)
        return outputs

    def _features(self, states: Float[Tensor, "n l d"], mask: Tensor) -> Float[Tensor, "n p"]:
        """The head `pooled`."""
        features: Tensor = self.layers(pool(states, self._pooled(mask), self.pooling))
        return features

    def try_out(self, name: str) -> None:
        """Make sure that features depend on the text alone, and on all of it.

        Texts are run alone and in one batch. If the results differ by more than rounding, texts of different lengths
        will not share a batch, and the recipe says so.

        Raises:
            UserError: they still differ, or depend on earlier batches; or `cls` is asked for, and the first token does
                not see the text.
        """
        short, middle = (self.transform(text) for text in self.tokenizer.samples[-3:-1])
        long = _cut(self.transform(" ".join(self.tokenizer.samples * (1 + TRIED // 8))), TRIED)
        examples = [long, short, middle, _cut(long, 1 + long.shape[1] // 2)]
        alone = [self._run([example])[0] for example in examples]
        if self._differ(self._run([long])[0], alone[0]):
            raise UserError(
                f"{name}: the features of a text change from call to call, or after other texts, so this architecture "
                f"({self.recipe['architecture']}) cannot be a teacher; choose another model"
            )
        for self.padded in (True, False):
            together = self._run([*examples, *examples[1:]])
            if not any(self._differ(*pair) for pair in zip([*alone, *alone[1:]], together, strict=True)):
                break
        else:
            raise UserError(
                f"{name}: a text's features depend on the texts that share its batch, so this architecture "
                f"({self.recipe['architecture']}) cannot be a teacher; choose another model"
            )
        if not self.padded:
            self.recipe["padded"] = False
            self.notes += (
                "its features depend on padding, so only texts of one length share a batch; this takes longer",
            )
        if "cls" in (*self.pooling, *self.heads) and self.model.first_sees_nothing(middle, long):
            raise UserError(
                f"{name}: `cls` takes the first token, which in this model (a decoder) does not see the text; set "
                "`pooling: last` or `pooling: mean`"
            )

    def _states(self, batch: Mapping[str, Tensor]) -> tuple[list[Float[Tensor, "n l d"]], Float[Tensor, "n c"] | None]:
        """States of every token after the last layer, and after each kept layer: float32, zeros for padding; logits."""
        ids, types, mask = batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]
        lengths, ends = mask.sum(1), None if self.model.end is None else (ids == self.model.end).sum(1)
        if self.padded and (ends is None or bool((ends == ends[0]).all())):
            found, logits = self.model.with_logits(ids, types, mask, self.numbers)
            kept = [part.float().masked_fill(mask[..., None] == 0, 0.0) for part in found]
            return kept, None if logits is None else logits.float()
        whole: list[Tensor] = []
        of_all: Tensor | None = None
        groups = torch.zeros_like(lengths) if self.padded else lengths * (1 + ids.shape[1])
        groups += 0 if ends is None else ends
        for group in groups.unique().tolist():
            rows = (groups == group).nonzero()[:, 0]
            length = int(lengths[rows].max())
            width = max(length, self.shortest)
            parts, logits = self.model.with_logits(
                ids[rows, :width], types[rows, :width], mask[rows, :width], self.numbers
            )
            whole = whole or [part.new_zeros((*ids.shape, part.shape[2]), dtype=torch.float32) for part in parts]
            for states, part in zip(whole, parts, strict=True):
                states[rows, :length] = part[:, :length].float().masked_fill(mask[rows, :length, None] == 0, 0.0)
            if logits is not None:
                if of_all is None:
                    of_all = logits.new_zeros((len(ids), logits.shape[1]), dtype=torch.float32)
                of_all[rows] = logits.float()
        return whole, of_all

    def _pooled(self, mask: Tensor) -> Tensor:
        """The mask of the tokens that are pooled: all except padding, or those after the prompt."""
        if not self.prompt_tokens:
            return mask
        after = mask.clone()
        after[:, : self.prompt_tokens] = 0
        # A text that was cut within the prompt is pooled as a whole.
        return torch.where(after.sum(1, keepdim=True) > 0, after, mask)

    @torch.inference_mode()
    def _run(self, examples: Sequence[np.ndarray]) -> list[list[Tensor]]:
        """Per example, the states of its tokens [l, d], and its logits [1, c] if they are kept."""
        batch = {key: value.to(self.device) for key, value in self.collate(examples).items()}
        (states, *_), logits = self._states(batch)
        found = [[states[row, : example.shape[1]]] for row, example in enumerate(examples)]
        return found if logits is None else [[*of, row[None]] for of, row in zip(found, logits, strict=True)]

    def _differ(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
        """Whether what a text gives differs by more than rounding."""
        for part, same in zip(one, other, strict=True):
            cosine = nn.functional.cosine_similarity(part.double(), same.double(), dim=1).mean()
            if not bool(1 - cosine < ROUNDING[self.recipe["precision"]]):
                return True
        return False


def _cut(example: np.ndarray, length: int) -> np.ndarray:
    """At most so many tokens of a text, its last one included, from which a classifier may read."""
    return example if example.shape[1] <= length else np.append(example[:, : length - 1], example[:, -1:], axis=1)


def _modules(settings: Settings, folder: Path) -> tuple[Modules, list[str]]:
    """The folder's modules, or the pooling that is set, and notes for the user."""
    modules = read_modules(folder, settings.model, pickles=not settings.safetensors_only)
    if settings.pooling is None:
        return modules, []
    chosen = replace(modules, pooling=(settings.pooling,), layers=nn.Sequential(), names=(), include_prompt=True)
    same = str(chosen) == str(modules) or not (folder / "modules.json").is_file()
    return chosen, [] if same else [f"`pooling: {settings.pooling}` replaces that of the model's folder: {modules}"]


def _length(settings: Settings, modules: Modules, body: TextBody, tokenizer: TextTokenizer) -> int:
    """The maximum length in tokens: `max_length`, or the model's own.

    Raises:
        UserError: neither is known, or the model has fewer positions.
    """
    wanted = settings.max_length or modules.max_length or own_length(body.model.config, tokenizer)
    if wanted is None:
        raise UserError(f"{settings.model}: the model has no maximum length; set `max_length`")
    greatest = body.greatest(tokenizer(tokenizer.samples[-1]), wanted)
    if settings.max_length and greatest < settings.max_length:
        raise UserError(
            f"{settings.model}: max_length: {settings.max_length} is more than the model's "
            f"{count(greatest, 'position')}; set that or less"
        )
    return greatest


def _check_layers(settings: Settings, body: TextBody) -> None:
    """Refuse a head of a layer that the model does not have."""
    numbers = [int(head.removeprefix(LAYER)) for head in settings.heads if head.startswith(LAYER)]
    if numbers and max(numbers) > (depth := body.depth()):
        found = f"it has layers 1 to {depth}" if depth else "transformers does not give its layers"
        raise UserError(f"{settings.model}: {found}, so it has no head `{LAYER}{max(numbers)}`")


def _config(folder: Path) -> dict[str, Any]:
    return {key: value for key, value in read_json(folder / "config.json").items() if key not in VOLATILE}


def _code(folder: Path) -> str | None:
    """A digest of the model's own code, if it has any, which is only loaded with `trust_remote_code`."""
    files = [read_json(folder / name, {}) for name in ("config.json", "tokenizer_config.json")]
    names = sorted(path.name for path in folder.glob("*.py"))
    return digest_files(folder, names) if any("auto_map" in values for values in files) else None
