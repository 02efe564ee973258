"""A teacher of your own: a function `package.module:name` that makes it.

It is called as `factory(device=DEVICE, precision=PRECISION, **options)`, a `torch.device` and the text of
`extract.precision`, and returns an object with

- `kind`: "text" or "image";
- `heads`: the shape of one row of each head, such as `{"pooled": (384,)}`;
- `prepare(image)`, if its kind is image: one upright RGB image of PIL as an array or tensor, of the same shape and type
  for all. It is called by several threads.

The object is called with a batch, and gives `{head: tensor or array [n, *shape]}`, of floats. A batch is a list of n
texts, or for images a tensor [n, ...] of what `prepare` made, on the device.

The recipe holds the options, and digests of the file that has the function, of the weights if the object is a
`torch.nn.Module`, and of files that options name. Other files that it imports are not followed, and DVC sees none of
them: after a change, run `dvc repro -f extract@NAME`.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn

from pipeline import images, params, pretrained
from pipeline.errors import UserError, count, listed
from pipeline.machine import is_out_of_memory
from pipeline.plugins import function, in_user_code
from pipeline.provenance import digest_files, digest_of
from pipeline.teachers import Precision, Teacher
from pipeline.teachers._batches import ROUNDING, depends_on_batch
from pipeline.teachers._logits import check_top, largest

VERSION = 1
"""Increased whenever this file gives other features for the same recipe."""

Head = (
    Literal["pooled", "cls", "tokens", "logits"] | Annotated[str, StringConstraints(pattern=r"^layer:[A-Za-z0-9_.]+$")]
)

TEXTS = ("A cat", "The quick brown fox jumps over the lazy dog.", "It was not until the rain had stopped.")
"""What a teacher of texts is tried on when it is loaded."""


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        factory: `package.module:name`; the module may lie in the project's folder.
        options: passed to the function, by name.
        heads: which of its heads to keep.
        top: of the head `logits`, keep this many of the largest with their classes, and the logsumexp of the others;
            all if None.
    """

    factory: str
    options: dict[str, Any] = Field(default_factory=dict)
    heads: tuple[Head, ...] = Field(default=("pooled",), min_length=1, strict=False)
    top: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _only_logits_have_a_top(self) -> "Settings":
        check_top(self.top, self.heads)
        return self


def load(settings: Settings, precision: Precision, device: torch.device) -> "OwnTeacher":
    """The teacher, ready on a device.

    Raises:
        UserError: there is no such function, it fails, or what it makes does not keep the contract.
    """
    return OwnTeacher(settings, precision, device)


class OwnTeacher(Teacher):
    """A user's object; what it gives is checked. A transformed text is itself, an image what `prepare` made of it."""

    def __init__(self, settings: Settings, precision: Precision, device: torch.device):
        self._arguments = (settings, precision, device)
        self.name, self.module = settings.factory, settings.factory.partition(":")[0]
        self.device = device
        make = function(settings.factory, "factory")
        try:
            self.own = make(device=device, precision=precision, **settings.options)
        except Exception as error:  # it may be any code
            raise self._fault(error) from error
        self._check_contract(settings.heads)
        self.largest, self.notes = largest(self.name, self.heads, settings.top)
        weights = None
        if isinstance(self.own, nn.Module):
            self.own = self.own.to(device).eval().requires_grad_(False)
            weights = pretrained.digest(self.own.state_dict())
        path = sys.modules[self.module].__file__
        self.recipe = {
            "family": "python",
            "version": VERSION,
            "kind": self.kind,
            "decoder": images.VERSION if self.kind == "image" else None,
            "factory": settings.factory,
            "code": digest_files(Path(path)) if path else None,
            "options": digest_of(settings.options),
            "files": {key: digest_files(Path(value)) for key, value in settings.options.items() if _is_file(value)},
            "weights": weights,
            "precision": precision,
        }
        self.uniform = self.kind == "image"
        self.together = True
        self._dtypes: dict[str, str] = {}
        self._prepared: tuple[tuple[int, ...], np.dtype] | None = None
        self.together = not depends_on_batch(self.name, self._run, self._examples(), ROUNDING[precision])
        if not self.together:
            self.recipe["together"] = False
            self.notes += ("a row's features depend on the rows that share its batch, so it gets one row at a time",)

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnTeacher, self._arguments

    def transform(self, content: str | bytes | Image.Image) -> Any:
        """A text as it is; of an image, what `prepare` makes of it."""
        if isinstance(content, str):
            return content
        image = images.decode(content) if isinstance(content, bytes) else content
        try:
            made = self.own.prepare(image.convert("RGB"))
        except Exception as error:  # it may be any code
            raise ValueError(f"{self.name}: {in_user_code(error, self.module)}") from error
        array = made.numpy() if isinstance(made, Tensor) else np.asarray(made)
        found = (array.shape, array.dtype)
        self._prepared = self._prepared or found
        if array.dtype.kind not in "fiu" or found != self._prepared:
            raise UserError(
                f"{self.name}: `prepare` gives {_described(*found)} for one image, {_described(*self._prepared)} for "
                "another; it must give numbers of one shape and type"
            )
        return array

    def cost(self, example: Any) -> int:
        """Characters of a text; all images are of one size."""
        return len(example) + 1 if self.kind == "text" else 1

    def collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        """What `prepare` made [n, *shape]; or the bytes of texts [n, longest], UTF-8, and the length of each."""
        if self.kind == "image":
            return {"images": torch.from_numpy(np.stack(examples))}
        encoded = [np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8) for text in examples]
        lengths = np.array([len(text) for text in encoded])
        padded = np.zeros((len(encoded), max(1, lengths.max())), np.uint8)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(encoded)
        return {"texts": torch.from_numpy(padded), "lengths": torch.from_numpy(lengths)}

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its heads, as float32 on the device."""
        rows: Any = batch.get("images")
        if rows is None:
            pairs = zip(batch["texts"].cpu().numpy(), batch["lengths"].tolist(), strict=True)
            rows = [text[:length].tobytes().decode("utf-8", "surrogatepass") for text, length in pairs]
        if self.together:
            return self._call(rows)
        single = [self._call(rows[row : row + 1]) for row in range(len(rows))]
        return {head: torch.cat([outputs[head] for outputs in single]) for head in self.heads}

    def _call(self, rows: Any) -> dict[str, Tensor]:
        """The heads of a batch, checked."""
        try:
            given = self.own(rows)
        except Exception as error:  # it may be any code
            if is_out_of_memory(error):
                raise
            raise self._fault(error) from error
        if not isinstance(given, Mapping) or not self.heads.keys() <= given.keys():
            found = listed([*given]) if isinstance(given, Mapping) else f"a {type(given).__name__}"
            raise UserError(
                f"{self.name}: gives {found} for a batch; it must give a mapping with {listed([*self.heads])}"
            )
        return {head: self._checked(head, given[head], len(rows)) for head in self.heads}

    def _checked(self, head: str, values: Any, rows: int) -> Tensor:
        """One head of a batch of rows: floats of the shape that was said, always of one type."""
        if not isinstance(values, Tensor):
            array = np.asarray(values)
            values = torch.from_numpy(array) if array.dtype.kind in "fiub" else torch.empty(0, dtype=torch.bool)
        shape, dtype = tuple(values.shape), str(values.dtype).removeprefix("torch.")
        expected = (rows, *self.heads[head])
        if shape != expected or not values.is_floating_point():
            raise UserError(
                f"{self.name}: head `{head}` is {dtype} {shape} for {count(rows, 'row')}; it must be of floats "
                f"{expected}"
            )
        if dtype != self._dtypes.setdefault(head, dtype):
            raise UserError(
                f"{self.name}: head `{head}` is {self._dtypes[head]} for some rows, {dtype} for others; give one type"
            )
        return values.to(self.device, torch.float32)

    def _check_contract(self, wanted: Sequence[str]) -> None:
        """Refuse an object that lacks a part of the contract, or a head that is wanted."""
        kind, heads = getattr(self.own, "kind", None), getattr(self.own, "heads", None)
        if kind not in ("text", "image"):
            raise UserError(f'{self.name}: what it makes has the kind {kind!r}; set `kind` to "text" or "image"')
        if not isinstance(heads, Mapping) or not all(map(_is_shape, heads.values())):
            raise UserError(
                f"{self.name}: what it makes has the heads {heads!r}; set `heads` to the shape of a row of each, such "
                'as {"pooled": (384,)}'
            )
        if absent := [head for head in wanted if head not in heads]:
            raise UserError(f"{self.name}: it has no head `{absent[0]}`; its heads are {listed([*heads])}")
        if not callable(self.own) or (kind == "image" and not callable(getattr(self.own, "prepare", None))):
            lacks = "prepare(image)" if callable(self.own) else "__call__(rows)"
            raise UserError(f"{self.name}: what it makes has no method `{lacks}`; see docs/teachers.md")
        self.kind: Literal["text", "image"] = kind
        self.heads = {head: tuple(heads[head]) for head in wanted}
        if len(self.heads.get("logits", (0,))) != 1:
            raise UserError(
                f"{self.name}: its head `logits` has the shape {self.heads['logits']}; it must be one value a class"
            )

    def _examples(self) -> list[Any]:
        """Rows to try it on, as `transform` gives them."""
        if self.kind == "text":
            return list(TEXTS)
        random = np.random.default_rng(0)
        pictures = [random.integers(0, 256, (*size, 3), np.uint8) for size in ((64, 48), (48, 64), (96, 96))]
        try:
            return [self.transform(Image.fromarray(picture)) for picture in pictures]
        except ValueError as error:
            raise UserError(str(error)) from error

    def _run(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        return self.forward({key: part.to(self.device) for key, part in self.collate(examples).items()})

    def _fault(self, error: Exception) -> UserError:
        return UserError(f"{self.name}: {in_user_code(error, self.module)}")


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(side, int) and side > 0 for side in value)


def _is_file(value: Any) -> bool:
    try:
        return isinstance(value, str) and Path(value).is_file()
    except (OSError, ValueError):  # a text that cannot be a path
        return False


def _described(shape: tuple[int, ...], dtype: np.dtype) -> str:
    return f"{dtype} {shape}"
