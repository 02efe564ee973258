"""Shards of WebDataset: tar files in which the files of a sample follow one another and differ only in their endings.

A sample's id is the common part of the names, up to the first dot after the last slash: `a/0001` for `a/0001.jpg` and
`a/0001.cls`.
"""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, islice
from typing import Any

from pydantic import Field

from pipeline.datasets import Kind, Location, Passed, Row
from pipeline.datasets._images import IMAGE_BYTES
from pipeline.datasets._tables import decompressed, files
from pipeline.errors import UserError, listed
from pipeline.files import is_utf8
from pipeline.objects import Place, size_of
from pipeline.params import Settings as Section
from pipeline.tasks import Label

KIND = None


class Settings(Section):
    """Keys of shards of WebDataset.

    Attributes:
        path: the tar file; or several, as a list or a pattern such as `raw/train-*.tar`. Also on object storage, as
            s3://bucket/train-*.tar.
        images: endings of images; a sample with two of them is refused.
        texts: the ending of texts, such as `txt`, to read texts instead of images.
        labels: the ending of labels, such as `cls`; or that of JSON files and a key in them, such as `json:label`.
            None: no sample has a label.
    """

    path: str | list[str]
    images: tuple[str, ...] = Field(default=("jpg", "jpeg", "png", "webp"), strict=False)
    texts: str | None = None
    labels: str | None = None

    @property
    def kind(self) -> Kind:
        """What the rows hold."""
        return "text" if self.texts else "image"


def rows(settings: Settings, passed: Passed | None = None) -> Iterator[Row]:
    """The samples, in the order of the shards."""
    passed = passed or Passed()
    shards = files(settings.path)
    wanted = (settings.texts,) if settings.texts else settings.images
    ending, _, key = (settings.labels or "").partition(":")
    for shard in shards:
        if (first := passed.first_row(shard)) is None:
            continue
        name = str(shard)
        where = name if len(shards) > 1 else None
        try:
            compression = _compression(shard)
            with _opened(shard, compression) as archive:
                samples = groupby(_members(archive, name), key=lambda member: member[0])
                for id, members in islice(samples, first, None):
                    parts: dict[str, bytes] = {}
                    places: dict[str, Location] = {}
                    for _, end, member in members:
                        if end in parts:
                            raise UserError(
                                f"{shard}: the sample {id} has {end!r} twice; give each sample its own name"
                            )
                        if end in (*wanted, ending):
                            parts[end] = _read(archive, member)
                            places[end] = Location(name, member.offset_data, member.size)
                    found = [end for end in wanted if end in parts]
                    if len(found) > 1:
                        raise UserError(
                            f"{shard}: the sample {id} has {listed(found)}; write the ending that is the image, as in "
                            f"dataset.source.images: [{found[0]}]"
                        )
                    label = _label(parts.get(ending), key, f"{shard}: sample {id}") if ending else None
                    if not found:
                        content = "" if settings.texts else b""
                        problem = f"no {listed(wanted)} in the sample"
                        yield Row(id, content, label, problem=problem, file=where, origin=name)
                    elif settings.texts:
                        yield _text(id, parts[found[0]], label, where, name)
                    else:
                        # In a compressed archive nothing has a place from which it could be read.
                        at = None if compression else places[found[0]]
                        yield Row(id, parts[found[0]], label, file=where, location=at, origin=name)
        except (UserError, MemoryError):
            raise
        except FileNotFoundError:
            raise UserError(f"{shard}: no such file; check dataset.source.path") from None
        except Exception as error:  # of a damaged archive; there are many
            raise UserError(f"{shard}: cannot be read: {' '.join(str(error).split())}") from None


class _Header(tarfile.TarInfo):
    """What precedes a file. tarfile takes one that is damaged or cut off for the end of the archive."""

    @classmethod
    def frombuf(cls, *content: Any) -> "_Header":
        try:
            found = super().frombuf(*content)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged, or cut off: {error}") from None
        if found.size < 0:
            raise tarfile.ReadError("a file of a negative size")
        return found


MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
"""What compressed files begin with."""


ZEROS = bytes(1 << 20)


def _compression(shard: Place) -> str | None:
    """What an archive is compressed with, as the suffix of such files."""
    size_of(shard)  # a pipe would hang
    with shard.open("rb") as file:
        start = file.read(8)
    return next((found for magic, found in MAGIC.items() if start.startswith(magic)), None)


@contextmanager
def _opened(shard: Place, compression: str | None) -> Iterator[tarfile.TarFile]:
    """An archive, compressed or not, which must be read to its end: tarfile would stop early without a word."""
    with (
        shard.open("rb") if compression is None else decompressed(shard, compression) as file,
        tarfile.open(fileobj=file, mode="r:" if compression is None else "r|", tarinfo=_Header) as archive,
    ):
        yield archive
        while rest := archive.fileobj.read(len(ZEROS)):
            if rest != ZEROS[: len(rest)]:
                raise UserError(f"{shard}: has data after its end, such as another archive; split it")


def _members(archive: tarfile.TarFile, shard: str) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """The files, with the id of their sample and their ending."""
    for member in archive:
        if member.size < 0 or member.issparse():
            raise UserError(f"{shard}: {member.name!a} is a sparse file, or damaged; write it whole")
        folder, slash, name = member.name.rpartition("/")
        id, dot, ending = name.partition(".")
        if id and dot and (member.issym() or member.islnk()):
            raise UserError(f"{shard}: {member.name!a} is a link; write the file that it stands for")
        if member.isfile() and id and dot:
            if not is_utf8(member.name):
                raise UserError(f"{shard}: the name {member.name!a} is not in UTF-8; rename it")
            if member.size > IMAGE_BYTES:
                raise UserError(f"{shard}: {member.name} has {member.size:,} bytes, more than a sample has; remove it")
            yield folder + slash + id, ending.lower(), member


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _text(id: str, content: bytes, label: Label | None, file: str | None, origin: str) -> Row:
    try:
        return Row(id, content.decode(), label, file=file, origin=origin)
    except UnicodeDecodeError as error:
        problem = f"byte 0x{content[error.start]:02x} at byte {error.start + 1} is not utf-8"
        return Row(id, "", label, problem=problem, file=file, origin=origin)


def _label(content: bytes | None, key: str, place: str) -> Label | None:
    """The label of a sample: a text, or the value of a key in JSON."""
    if content is None:
        return None
    try:
        text = content.decode()
        value = json.loads(text).get(key) if key else text
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"{place}: its label is not {'a JSON object' if key else 'text in UTF-8'}") from None
    if isinstance(value, list) and all(isinstance(name, str | int) for name in value):
        return tuple(str(name).strip() for name in value)
    if isinstance(value, list | dict):
        raise UserError(f"{place}: its label {str(value)[:60]} is not a text, a number or a list of them")
    return None if value is None else str(value).strip() or None
