"""Models in ONNX files, run by onnxruntime: of images with stated preprocessing, or of texts with their tokenizer.

A graph with an input `input_ids` reads texts, any other one images. Precision is that of the graph.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, functional

from pipeline import images, params, pretrained
from pipeline.errors import UserError, listed
from pipeline.pretrained.text_body import LENGTHS
from pipeline.pretrained.text_tokenizer import TextTokenizer
from pipeline.pretrained.transformers import read_json
from pipeline.teachers import Precision, Teacher
from pipeline.teachers._batches import ROUNDING, depends_on_batch
from pipeline.teachers._images import ImageTeacher
from pipeline.teachers._logits import check_top, largest
from pipeline.teachers._pooling import Pooling, pool

try:
    from pipeline.teachers._graphs import OnnxGraph, Shape
except ImportError as error:
    raise UserError(
        f"family: onnx: the package {error.name} is not installed; run pip install 'aft-pipeline[onnx]'"
    ) from None

VERSION = 1
"""Increased whenever this file gives other features for the same recipe."""

Head = Literal["pooled", "cls", "tokens", "logits"]

TEXTS = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs of a model of texts."""


LONG = 2048
"""Longest texts of more tokens are not tried: they take too much memory."""

PREPARED = "preprocessing.json"
"""What `aft export --format onnx` writes next to a model of images."""


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        model: the file, also as `package:NAME/FILE` inside an installed package.
        outputs: by head, the name of the model's output; needed where it has several.
        heads: which to keep. `pooled` is an output [n, d] as it is, or one with positions, pooled; `cls` the first
            position; `tokens` all positions (of texts, followed by zeros); `logits` an output [n, C].
        top: of the head `logits`, keep this many of the largest with their classes, and the logsumexp of the others;
            all if None.
        pooling: how positions are pooled; see `family: transformers`. For maps of images always the mean.
        size: height and width of the images; the model's own if it has a fixed one. If mean and std are not set, these
            six come from the preprocessing.json of `aft export` next to the model, if there is one.
        resize: the shorter side is resized to this and the centre is cropped. If None, images are resized to size x
            size, whatever their shape.
        interpolation: of resizing.
        rounding: of sides and margins that are no whole pixels: as torchvision does, or as students of `aft` do.
        scale: pixels of 0..255 are multiplied by it first.
        mean, std: then the mean is subtracted and divided by std, for each channel. Required for inputs of floats.
        layout: whether channels come before height and width, in the input and in maps; what the input's shape says if
            None.
        channels: their order.
        tokenizer: of texts, the folder with the tokenizer's files; that of the model or the one above it if None.
        prompt: text in front of every row.
        max_length: in tokens; longer texts are cut. The model's or the tokenizer's own limit if None.
    """

    model: str
    outputs: dict[Head, str] = Field(default_factory=dict)
    heads: tuple[Head, ...] = Field(default=("pooled",), min_length=1, strict=False)
    top: int | None = Field(default=None, ge=1)
    pooling: Pooling = "mean"
    size: int | None = Field(default=None, ge=1)
    resize: int | None = Field(default=None, ge=1)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    rounding: Literal["torchvision", "aft"] = "torchvision"
    scale: float = Field(default=1 / 255, gt=0)
    mean: tuple[float, ...] | None = Field(default=None, strict=False)
    std: tuple[float, ...] | None = Field(default=None, strict=False)
    layout: Literal["NCHW", "NHWC"] | None = None
    channels: Literal["RGB", "BGR"] = "RGB"
    tokenizer: str | None = None
    prompt: str = ""
    max_length: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _only_logits_have_a_top(self) -> "Settings":
        check_top(self.top, self.heads)
        return self


OF_TEXTS = ("tokenizer", "prompt", "max_length")
OF_IMAGES = ("size", "resize", "interpolation", "rounding", "scale", "mean", "std", "layout", "channels")
"""Settings that only models of texts have, and only those of images."""


def load(settings: Settings, precision: Precision, device: torch.device) -> "OnnxModel":
    """The teacher, ready on a device.

    Raises:
        UserError: the file is missing, damaged or needs operators of its own; it has no such input or output; its
            preprocessing is not stated; its tokenizer is missing or does not fit; or its features are random.
    """
    graph = OnnxGraph(pretrained.locate(settings.model), settings.model, device)
    kind = OnnxTexts if TEXTS[0] in graph.inputs else OnnxImages
    if idle := [name for name in (OF_IMAGES if kind is OnnxTexts else OF_TEXTS) if name in settings.model_fields_set]:
        raise UserError(f"{settings.model}: {idle[0]}: has no effect on a model of {kind.kind}s; remove it")
    return kind(graph, _with_preprocessing(settings), precision, device)


class OnnxModel(Teacher):
    """What models of images and of texts share. Its tensors are on the CPU: onnxruntime copies them to a GPU itself."""

    device = torch.device("cpu")

    def __init__(self, graph: OnnxGraph, settings: Settings, precision: Precision, device: torch.device):
        self._arguments = (settings, precision, device)
        self.graph, self.settings, self.name = graph, settings, settings.model
        self.notes = graph.notes
        if odd := [name for name in settings.outputs.values() if name not in graph.outputs]:
            raise UserError(f"{self.name}: it has no output {odd[0]!r}; its outputs are {listed([*graph.outputs])}")
        self.output_of: dict[str, str] = {head: self._output(head) for head in settings.heads}
        types = {np.dtype(graph.outputs[name][0] or object) for name in self.output_of.values()}
        if bad := [name for name in self.output_of.values() if np.dtype(graph.outputs[name][0] or object).kind != "f"]:
            raise UserError(f"{self.name}: its output {bad[0]!r} is no array of floats; name another")
        own = "float16" if np.dtype(np.float16) in types else "float32"
        self.rounding = ROUNDING[own]
        if precision != own:
            self.notes += (
                f"it computes in the precision of its graph ({own} outputs); `extract.precision` is not used",
            )
        self.alone = False
        self.recipe: dict[str, Any] = {
            "family": "onnx",
            "version": VERSION,
            "graph": graph.digest,
            "outputs": settings.outputs,
            "pooling": settings.pooling,
            "precision": own,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return load, self._arguments

    def _output(self, head: Head) -> str:
        """The name of the output for a head."""
        if head in self.settings.outputs:
            return self.settings.outputs[head]
        if len(self.graph.outputs) > 1:
            shapes = [f"{name} {_sides(shape)}" for name, (_, shape) in self.graph.outputs.items()]
            raise UserError(
                f"{self.name}: it has several outputs, {listed(shapes)}; name that of head `{head}`, such as "
                f"`outputs: {{{head}: {next(iter(self.graph.outputs))}}}`"
            )
        return next(iter(self.graph.outputs))

    def _try_out(self, examples: Sequence[Any]) -> None:
        """Find the shapes of the heads, and whether rows may share a batch."""
        self.heads: Mapping[str, tuple[int, ...]] = dict.fromkeys(self.settings.heads, ())
        outputs = self.forward(self.collate(examples[:1]))
        self.heads = {head: tuple(values.shape[1:]) for head, values in outputs.items()}
        self.largest, notes = largest(self.name, self.heads, self.settings.top)
        self.notes += notes
        self.alone = depends_on_batch(self.name, lambda rows: self.forward(self.collate(rows)), examples, self.rounding)
        if self.alone:
            self.recipe["together"] = False
            self.notes += (
                "a row's features depend on the rows that share its batch, so it gets one row at a time; this is slow",
            )

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """The outputs of the heads of a batch, float32."""
        names = [*dict.fromkeys(self.output_of.values())]
        found = dict(zip(names, self.graph.run(feeds, names, self.alone), strict=True))
        return {head: torch.from_numpy(found[name]).float() for head, name in self.output_of.items()}

    def _refused(self, head: str, values: Tensor) -> UserError:
        shape = _sides((None, *values.shape[1:]))
        return UserError(
            f"{self.name}: its output {self.output_of[head]!r} {shape} has no head `{head}`; name another in `outputs`"
        )


class OnnxImages(ImageTeacher, OnnxModel):
    """A model of images. A transformed image is its pixels [h, w, c], uint8."""

    def __init__(self, graph: OnnxGraph, settings: Settings, precision: Precision, device: torch.device):
        super().__init__(graph, settings, precision, device)
        if len(graph.inputs) > 1:
            raise UserError(
                f"{self.name}: it needs {listed([*graph.inputs])}; a model of images can have one input; export it so"
            )
        (self.input,) = graph.inputs
        self.dtype, shape = graph.inputs[self.input]
        self.layout, self.channels, own = self._layout(shape)
        size = settings.size or own
        if size is None or (own and size != own):
            raise UserError(f"{self.name}: set `size`" + (f" to the {own} that it takes" if own else ", it takes any"))
        if settings.resize is not None and settings.resize < size:
            raise UserError(f"{self.name}: resize: {settings.resize} leaves less than size: {size}; set more")
        self.size = size
        self._set_normalisation()
        self.recipe |= {
            "decoder": images.VERSION,
            "layout": self.layout,
            "size": size,
            "resize": settings.resize,
            "interpolation": settings.interpolation,
            "rounding": settings.rounding,
            "scale": settings.scale,
            "mean": settings.mean,
            "std": settings.std,
            "channels": settings.channels,
        }
        self.recipe = {key: list(value) if isinstance(value, tuple) else value for key, value in self.recipe.items()}
        random = np.random.default_rng(0)
        self._try_out([random.integers(0, 256, (size, size, self.channels), np.uint8) // shade for shade in (1, 2, 4)])

    def _layout(self, shape: Shape) -> tuple[str, int, int | None]:
        """Layout, channels and size of the input's shape."""
        if len(shape) != 4:
            raise UserError(f"{self.name}: its input {self.input!r} {_sides(shape)} is no batch of images")
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        found = self.settings.layout or ("NCHW" if first and not last else "NHWC" if last and not first else None)
        if found is None:
            raise UserError(f"{self.name}: its input {self.input!r} is {_sides(shape)}; set `layout` to NCHW or NHWC")
        channels, *sides = (shape[1], *shape[2:]) if found == "NCHW" else (shape[3], *shape[1:3])
        if channels not in (None, 1, 3) or sides[0] != sides[1]:
            raise UserError(f"{self.name}: its input {self.input!r} {_sides(shape)} ({found}) takes no square images")
        return found, channels or 3, sides[0]

    def _set_normalisation(self) -> None:
        mean, std = self.settings.mean, self.settings.std
        if self.dtype == np.uint8:
            if mean is not None or std is not None:
                raise UserError(
                    f"{self.name}: its input takes pixels of 0..255, so it has no mean and std; remove them"
                )
            return
        if mean is None or std is None or {len(mean), len(std)} != {self.channels} or min(std) <= 0:
            raise UserError(
                f"{self.name}: state how its images are prepared: `mean` and `std` of {self.channels} channels, after "
                "`scale`, such as mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"
            )
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """Resize and crop as stated: [h, w, c], uint8."""
        image = image.convert("RGB" if self.channels == 3 else "L")
        size, shorter = self.size, self.settings.resize
        how = InterpolationMode(self.settings.interpolation)
        if self.settings.rounding == "torchvision" or shorter is None:
            image = functional.resize(image, [size, size] if shorter is None else [shorter], how)
            image = functional.center_crop(image, [size, size])
        else:
            width, height = (max(shorter, round(side * (shorter / min(image.size)))) for side in image.size)
            image = functional.resize(image, [height, width], how)
            left, top = (width - size) // 2, (height - size) // 2
            image = image.crop((left, top, left + size, top + size))
        return np.array(image).reshape(size, size, -1)

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each head, float32."""
        pixels = batch["pixels"].numpy()
        pixels = pixels[..., ::-1] if self.settings.channels == "BGR" else pixels
        if self.dtype != np.uint8:
            pixels = ((pixels * np.float32(self.settings.scale) - self.mean) / self.std).astype(self.dtype)
        outputs = self._run({self.input: pixels.transpose(0, 3, 1, 2) if self.layout == "NCHW" else pixels})
        return {head: self._head(head, outputs[head]) for head in self.heads}

    def _head(self, head: str, values: Tensor) -> Tensor:
        if values.ndim == 4:
            values = values.flatten(2).transpose(1, 2) if self.layout == "NCHW" else values.flatten(1, 2)
        if values.ndim == 1 and head == "logits":
            return values[:, None]
        if values.ndim == 2 and head in ("pooled", "logits"):
            return values
        if values.ndim == 3 and head == "tokens":
            return values
        if values.ndim == 3 and head in ("pooled", "cls"):
            return values[:, 0] if head == "cls" or self.settings.pooling == "cls" else values.mean(1)
        raise self._refused(head, values)


class OnnxTexts(OnnxModel):
    """A model of texts. A transformed text is its token numbers and types [2, l], int64."""

    kind: Literal["text"] = "text"
    uniform = False

    def __init__(self, graph: OnnxGraph, settings: Settings, precision: Precision, device: torch.device):
        super().__init__(graph, settings, precision, device)
        if other := [name for name in graph.inputs if name not in TEXTS]:
            raise UserError(f"{self.name}: it needs {other[0]!r} besides a text; export it with {listed(TEXTS)} alone")
        folder = self._folder()
        self.tokenizer = TextTokenizer(folder, self.name)
        self.fixed = next((shape[1] for _, shape in graph.inputs.values()), None)
        own = [self.fixed, self.tokenizer.limit]
        own += [value for name, value in read_json(folder / "config.json", {}).items() if name in LENGTHS]
        limit = min((side for side in own if isinstance(side, int) and side > 0), default=None)
        length = settings.max_length or limit
        if length is None or (self.fixed and length > self.fixed):
            raise UserError(
                f"{self.name}: set `max_length`"
                + (
                    f" to {self.fixed} or less, as it takes no more tokens"
                    if self.fixed
                    else ", it has no limit itself"
                )
            )
        self.longest = self.length = length
        self.tokenizer.cut(length)
        self.recipe |= {
            "tokenizer": self.tokenizer.digest(folder),
            "prompt": settings.prompt,
            "max_length": length,
        }
        examples = [self.transform(text) for text in self.tokenizer.samples]
        self._try_out([*examples[:4], examples[-1]])
        if length <= LONG:
            # Positions and words that it lacks show before the first row.
            longest = np.resize(examples[-1], (2, length))
            words = self.tokenizer.library.get_vocab().items()
            longest[0, 0] = max(number for word, number in words if word != self.tokenizer.library.pad_token)
            self.forward(self.collate([longest]))

    def _folder(self) -> Path:
        """The folder of the tokenizer."""
        beside = pretrained.locate(self.settings.model).absolute().parent
        if self.settings.tokenizer is not None:
            return pretrained.locate(self.settings.tokenizer)
        found = [at for at in (beside, beside.parent) if any(at.glob("tokenizer*")) or (at / "vocab.txt").is_file()]
        if not found:
            raise UserError(f"{self.name}: no tokenizer next to it; set `tokenizer` to the folder that has its files")
        return found[0]

    def transform(self, content: Any) -> np.ndarray:
        """Token numbers and types, special tokens and the prompt's included, cut to `max_length`."""
        return self.tokenizer(self.settings.prompt + content)

    def cost(self, example: np.ndarray) -> int:
        """The number of tokens."""
        return int(example.shape[1])

    def collate(self, examples: Sequence[np.ndarray]) -> Mapping[str, Tensor]:
        """Token numbers, their types, and which of them are not padding, [n, longest], int64."""
        lengths = np.array([example.shape[1] for example in examples])
        mask = np.arange(self.fixed or lengths.max()) < lengths[:, None]
        ids, types = np.full(mask.shape, self.tokenizer.pad), np.full(mask.shape, self.tokenizer.pad_type)
        ids[mask], types[mask] = np.concatenate(examples, axis=1)
        values = zip(TEXTS, (ids, mask, types), strict=True)
        return {name: torch.from_numpy(array.astype(np.int64)) for name, array in values}

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each head, float32."""
        if not self.alone:
            return self._outputs(batch)
        # Without the padding, too, on which its features may depend.
        lengths = [self.fixed or length for length in batch[TEXTS[1]].sum(1).tolist()]
        single = [
            self._outputs({name: values[row : row + 1, :length] for name, values in batch.items()})
            for row, length in enumerate(lengths)
        ]
        return {head: torch.cat([outputs[head] for outputs in single]) for head in self.heads}

    def _outputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        feeds = {name: batch[name].numpy().astype(self.graph.inputs[name][0]) for name in self.graph.inputs}
        outputs = self._run(feeds)
        return {head: self._head(head, outputs[head], batch[TEXTS[1]]) for head in self.heads}

    def _head(self, head: str, values: Tensor, mask: Tensor) -> Tensor:
        if values.ndim == 1 and head == "logits":
            return values[:, None]
        if values.ndim == 2 and head in ("pooled", "logits"):
            return values
        if values.ndim == 3 and values.shape[1] == mask.shape[1] and head != "logits":
            states = values.masked_fill(mask[..., None] == 0, 0.0)
            if head == "tokens":
                return nn.functional.pad(states, (0, 0, 0, self.length - states.shape[1]))
            return pool(states, mask, ["cls" if head == "cls" else self.settings.pooling])
        raise self._refused(head, values)


def _with_preprocessing(settings: Settings) -> Settings:
    """The settings, with the preprocessing next to an export of this project unless they state their own.

    Raises:
        UserError: that file is damaged.
    """
    path = pretrained.locate(settings.model).parent / PREPARED
    steps = read_json(path, {})
    if not steps or settings.mean is not None or settings.std is not None:
        return settings
    try:
        found = {
            "size": steps["crop"]["centre"],
            "resize": steps["resize"]["shorter_side"],
            "interpolation": steps["resize"]["interpolation"],
            "rounding": "aft",
            "mean": steps["mean"],
            "std": steps["std"],
        }
    except (KeyError, TypeError):
        raise UserError(f"{path}: no preprocessing of `aft export`; repair or remove it") from None
    return params.parse(Settings, settings.model_dump() | found, str(path))


def _sides(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('n' if side is None else str(side) for side in shape)}]"
