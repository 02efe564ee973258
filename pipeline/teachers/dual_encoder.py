"""Models of transformers with a tower for images and one for texts, whose features share a space: CLIP, SigLIP.

The reference is the library's own recipe: `get_image_features` of what the model's image processor makes,
`get_text_features` of its tokenizer's tokens, and `logits_per_image` of both.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline import images, params, pretrained
from pipeline.errors import UserError, count
from pipeline.pretrained.text_body import own_length
from pipeline.pretrained.text_tokenizer import TextTokenizer
from pipeline.pretrained.transformers import fetch, one_line, quiet, read_config
from pipeline.provenance import digest_of
from pipeline.sources import ZERO_SHOT
from pipeline.tasks import Task
from pipeline.teachers import Precision, Teacher
from pipeline.teachers._configuration import plain
from pipeline.teachers._images import ImageTeacher
from pipeline.teachers._zero_shot import ZeroShot, check_head, embed_prompts, name_the_classes

VERSION = 1
"""Increased whenever this file gives other features for the same recipe."""

Head = Literal["pooled", "projected", "zero_shot"]

TOWERS = {"image": "vision_model", "text": "text_model"}
PROJECTIONS = {"image": "visual_projection", "text": "text_projection"}
METHODS = {"image": "get_image_features", "text": "get_text_features"}
"""Names of the parts of such a model in transformers."""

PADDED = ("siglip", "siglip2")
"""Types of models that were trained with texts of full length, padding included, and without a mask."""

ROUNDING = 1e-4
"""In float32, features are equal if 1 - cosine is below this, and logits if they differ by less than this share."""


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        model: a hub name, a local folder, or a folder inside an installed package as `package:NAME/FOLDER`.
        revision: branch, tag or commit on the hub; only a commit fixes the weights.
        tower: which rows it reads: those of the `image` tower, or of the `text` tower.
        heads: which to keep: `pooled`, before the projection into the shared space; `projected`, after it, not
            normalised; a model without a projection of its own, such as SigLIP, has the same in both. `zero_shot`, of
            the image tower, is the logits of the dataset's classes, from the features of their names.
        zero_shot: for the head `zero_shot`, how class names become texts: `template`, one text such as "a photo of a
            {}", or a list of them whose features are averaged; `names`, by class, words to use instead of its name.
    """

    model: str
    revision: str | None = None
    tower: Literal["image", "text"] = "image"
    heads: tuple[Head, ...] = Field(default=("pooled",), min_length=1, strict=False)
    zero_shot: ZeroShot | None = None

    @model_validator(mode="after")
    def _names_are_for_images(self) -> "Settings":
        check_head(self.zero_shot, self.heads)
        if ZERO_SHOT in self.heads and self.tower == "text":
            raise ValueError("heads: zero_shot compares images with the names of classes; set tower: image")
        return self


def load(settings: Settings, precision: Precision, device: torch.device) -> Teacher:
    """The teacher, ready on a device.

    Raises:
        UserError: the model is missing and cannot be fetched, does not have two towers, lacks tensors, cannot take what
            its processor or tokenizer makes, or has features of texts that depend on padding or logits of its own kind.
    """
    name, folder = settings.model, fetch(settings.model, settings.revision)
    config = read_config(folder, name)
    try:
        with quiet():
            model, found = transformers.AutoModel.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True, dtype="auto",
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"{name}: cannot load it: {one_line(error)}") from None
    if not all(hasattr(model, part) for part in (*TOWERS.values(), *METHODS.values(), "logit_scale")):
        instead = "transformers_vision" if settings.tower == "image" else "transformers"
        raise UserError(
            f"{name}: {type(model).__name__} does not have a tower of images, one of texts and a scale of logits, as "
            f"CLIP and SigLIP have; `family: {instead}` is for models of one kind of rows"
        )
    if missing := sorted(key for key in found["missing_keys"] if not key.endswith("position_ids")):
        raise UserError(
            f"{name}: its weights lack {len(missing)} of {count(len(model.state_dict()), 'tensor')} of the model, "
            f"such as {missing[0]!r}; are their names those of transformers?"
        )
    recipe = {
        "family": "dual_encoder",
        "version": VERSION,
        "tower": settings.tower,
        "architecture": type(model).__name__,
        "config": digest_of(plain(config.to_dict())),
        "weights": pretrained.digest(model.state_dict()),
        "precision": precision,
    }
    model = model.float().eval().requires_grad_(False)
    texts = TextInput(folder, name, model) if settings.tower == "text" or ZERO_SHOT in settings.heads else None
    dtype = getattr(torch, precision)
    if settings.tower == "text":
        assert texts is not None
        return TextSide(model.to(dtype=dtype, device=device), texts, recipe | texts.recipe, settings, device)
    try:
        with quiet():
            processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"{name}: cannot load its image processor: {one_line(error)}") from None
    if texts is not None:
        _check_logits(model, texts, processor, name)
    recipe |= {"decoder": images.VERSION, "processor": plain(processor.to_dict())}
    return ImageSide(model.to(dtype=dtype, device=device), texts, processor, recipe, settings, device)


class TextInput:
    """Turns texts into what the text tower takes: cut, and padded to full length if the model was trained so.

    Attributes:
        length: the maximum in tokens.
        full: whether all texts are padded to it.
        recipe: what determines that.

    Raises:
        UserError: the tokenizer is missing, does not fit, or the features of a text depend on its padding.
    """

    def __init__(self, folder: Path, name: str, model: Any):
        self.name, self.tokenizer = name, TextTokenizer(folder, name)
        rows = getattr(model.text_model.get_input_embeddings(), "num_embeddings", None)
        if rows is not None:
            self.tokenizer.check_numbers(rows)
        self.masked = "attention_mask" in self.tokenizer.library.model_input_names
        self.full = model.config.model_type in PADDED
        length = own_length(model.config, self.tokenizer)
        if length is None:
            raise UserError(f"{name}: neither the model nor its tokenizer says how long a text may be")
        self.length = length
        self.tokenizer.cut(length)
        self.recipe = {"tokenizer": self.tokenizer.digest(folder), "max_length": length, "padded": self.full}
        self._try_out(model)

    def __call__(self, text: str) -> np.ndarray:
        """Token numbers [l], int64, special tokens included."""
        numbers: np.ndarray = self.tokenizer(text)[0]
        return numbers

    def collate(self, examples: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Token numbers and, for a model that is given it, which are not padding [n, longest], int64."""
        lengths = np.array([len(example) for example in examples])
        mask = np.arange(self.length if self.full else lengths.max()) < lengths[:, None]
        if self.tokenizer.library.padding_side == "left":
            mask = mask[:, ::-1]
        ids = np.full(mask.shape, self.tokenizer.pad, np.int64)
        ids[mask] = np.concatenate(examples)
        masks = {"attention_mask": torch.from_numpy(np.ascontiguousarray(mask, np.int64))} if self.masked else {}
        return {"input_ids": torch.from_numpy(ids), **masks}

    def _try_out(self, model: Any) -> None:
        """Run texts alone and together, and one of full length."""
        samples = [
            self(text) for text in (*self.tokenizer.samples[-3:], " ".join(self.tokenizer.samples * self.length))
        ]
        try:
            together = _features(model, "text", self.collate(samples))[1]
            alone = torch.cat([_features(model, "text", self.collate([sample]))[1] for sample in samples])
        except Exception as error:  # each architecture checks its input in its own way
            raise UserError(
                f"{self.name}: its text tower cannot take its tokenizer's tokens: {one_line(error)}"
            ) from None
        if together.ndim != 2 or not bool((1 - torch.cosine_similarity(together, alone)).max() < ROUNDING):
            raise UserError(f"{self.name}: its features of a text depend on how long the others of a batch are")


class TextSide(Teacher):
    """The tower of texts. A transformed text is its token numbers [l], int64."""

    kind: Literal["text"] = "text"
    uniform = False
    replicable = True

    def __init__(
        self, model: Any, texts: TextInput, recipe: Mapping[str, Any], settings: Settings, device: torch.device
    ):
        self.model, self.texts, self.recipe, self.device = model, texts, recipe, device
        self.uniform, self.longest = texts.full, texts.length
        model.vision_model = None
        example = {key: value.to(device) for key, value in texts.collate([texts(texts.tokenizer.samples[0])]).items()}
        self.heads: Mapping[str, tuple[int, ...]] = dict.fromkeys(settings.heads, ())
        self.heads = {head: tuple(values.shape[1:]) for head, values in self.forward(example).items()}

    def transform(self, content: Any) -> Int[np.ndarray, " l"]:
        """Token numbers, cut to the model's length."""
        return self.texts(content)

    def cost(self, example: np.ndarray) -> int:
        """The number of tokens, with padding where all texts have it."""
        return self.texts.length if self.texts.full else len(example)

    def collate(self, examples: Sequence[np.ndarray]) -> Mapping[str, Tensor]:
        """Token numbers and which are not padding, [n, longest], int64."""
        return self.texts.collate(examples)

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pooled and projected features [n, d], float32."""
        pooled, projected = _features(self.model, "text", batch)
        found = {"pooled": pooled, "projected": projected}
        return {head: found[head] for head in self.heads}


class ImageSide(ImageTeacher):
    """The tower of images. A transformed image is what the model's processor makes of it, arrays by name."""

    replicable = True

    def __init__(
        self,
        model: Any,
        texts: TextInput | None,
        processor: Any,
        recipe: Mapping[str, Any],
        settings: Settings,
        device: torch.device,
    ):
        self.model, self.processor, self.recipe, self.device = model, processor, recipe, device
        self.settings, self.texts, self.dtype = settings, texts, model.logit_scale.dtype
        self.names: Tensor | None = None
        if texts is None:
            model.text_model = None
        self.heads: Mapping[str, tuple[int, ...]] = dict.fromkeys((h for h in settings.heads if h != ZERO_SHOT), ())
        try:
            blank = {key: value.to(device) for key, value in self.collate([self.transform(BLANK)]).items()}
            self.heads = {head: tuple(values.shape[1:]) for head, values in self.forward(blank).items()}
        except Exception as error:  # each architecture checks its input in its own way, and processors do
            raise UserError(f"{settings.model}: it cannot take what its processor makes: {one_line(error)}") from None

    def name_classes(self, task: Task) -> None:
        """Run the names of the classes through the text tower, which is not needed after that."""
        if self.texts is None:
            return
        texts, spec = self.texts, self.settings.zero_shot or ZeroShot()
        words, prompts = name_the_classes(spec, task, self.settings.model, texts.tokenizer.fits, texts.length)

        def embed(some: Sequence[str]) -> Tensor:
            batch = texts.collate([texts(text) for text in some])
            return _features(self.model, "text", {key: value.to(self.device) for key, value in batch.items()})[1]

        self.names = embed_prompts(embed, prompts, len(spec.templates))
        self.model.text_model = None
        self.heads = {head: self.heads.get(head, (len(words),)) for head in self.settings.heads}
        own = {"classes": list(task.classes), "words": words, "templates": spec.templates}
        self.head_recipes = {ZERO_SHOT: own | texts.recipe}
        self.texts = None

    def preprocess(self, image: Image.Image) -> dict[str, np.ndarray]:
        """What the model's own processor makes of it, by name: pixels [3, h, w], float32, and whatever else."""
        found = self.processor(images=image.convert("RGB"), return_tensors="np")
        return {key: np.ascontiguousarray(values[0]) for key, values in found.items()}

    def collate(self, examples: Sequence[Mapping[str, np.ndarray]]) -> Mapping[str, Tensor]:
        """Pixels [n, 3, h, w], float32, and whatever else the processor makes."""
        return {key: torch.from_numpy(np.stack([example[key] for example in examples])) for key in examples[0]}

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pooled and projected features [n, d], and logits of classes [n, C], float32."""
        inputs = {key: value.to(self.dtype) if value.is_floating_point() else value for key, value in batch.items()}
        pooled, projected = _features(self.model, "image", inputs)
        found = {"pooled": pooled, "projected": projected}
        if self.names is not None:
            found[ZERO_SHOT] = _logits(self.model, nn.functional.normalize(projected, dim=1), self.names)
        return {head: found[head] for head in self.heads}


BLANK = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
"""An image to try a model with."""


@torch.inference_mode()
def _features(model: Any, tower: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features before and after the projection into the shared space [n, d], float32; one pass for both."""
    before: list[Tensor] = []
    projection = getattr(model, PROJECTIONS[tower], None)
    hook = projection.register_forward_pre_hook(lambda module, args: before.append(args[0])) if projection else None
    try:
        projected = getattr(model, METHODS[tower])(**inputs).pooler_output.flatten(1).float()
    finally:
        if hook is not None:
            hook.remove()
    return (before[0].flatten(1).float() if before else projected), projected


def _logits(model: Any, one: Float[Tensor, "n d"], other: Float[Tensor, "c d"]) -> Float[Tensor, "n c"]:
    """Logits of pairs of unit vectors: cosines, times the model's scale, plus its bias if it has one."""
    bias = getattr(model, "logit_bias", None)
    logits = one @ other.T * model.logit_scale.float().exp()
    return logits if bias is None else logits + bias.float()


def _check_logits(model: Any, texts: TextInput, processor: Any, name: str) -> None:
    """Compare the logits of an image and two texts with the model's own.

    Raises:
        UserError: they differ.
    """
    tokens = texts.collate([texts(text) for text in texts.tokenizer.samples[-2:]])
    with torch.inference_mode():
        try:
            pixels = processor(images=BLANK, return_tensors="pt")
            expected = model(**pixels, **tokens).logits_per_image
        except Exception as error:  # each architecture checks its input in its own way
            raise UserError(f"{name}: it cannot take what its processor makes: {one_line(error)}") from None
        unit = [
            nn.functional.normalize(_features(model, *part)[1], dim=1) for part in (("image", pixels), ("text", tokens))
        ]
        found = _logits(model, *unit)
    if expected.shape != found.shape or not torch.allclose(found, expected, rtol=ROUNDING, atol=ROUNDING):
        raise UserError(
            f"{name}: {type(model).__name__} does not compute its logits from cosines as CLIP and SigLIP do, so it has "
            f"no head `{ZERO_SHOT}`; remove it from `heads`"
        )
