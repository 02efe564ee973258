"""The encoding of a text file: that of its byte order mark, or UTF-8. What else it may be is said, and not guessed:
statistics tell cp1252 from cp1250 about as well as a coin, and a wrong guess gives other texts without an error.
"""

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from typing import Any

import charset_normalizer

from pipeline.errors import UserError, listed
from pipeline.objects import Place

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and their encodings; UTF-16's mark is the beginning of UTF-32's."""

START = 1024
"""The number of bytes at the start of a file that its encoding is found from."""

COMMON = (
    *("cp1252", "cp1250", "iso8859_2", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874"),
    *("mac_roman", "cp850", "cp866", "cp932", "euc_jp", "gb18030", "big5hkscs", "cp949"),
)
"""Encodings that are proposed; of those that read a file alike, the first."""

APART = r'[ \t\n,;"]'
"""Characters between words. No encoding has their bytes inside of a character."""

MOST_READINGS = 4
"""The maximum number of encodings that a message proposes."""

SAMPLE_BYTES = 1 << 16
"""The minimum size of lines that encodings are proposed from, if a file has as many."""


@dataclass(frozen=True)
class Decoding:
    """How a file is decoded.

    Attributes:
        name: the encoding.
        open: opens the file, decompressed.
    """

    name: str
    open: Callable[[], AbstractContextManager[BufferedReader]]

    @cached_property
    def advice(self) -> str:
        """What to do about bytes that cannot be decoded, from all lines that have some; it reads the file again."""
        sample, size, wrong, right, first = [], 0, 0, 0, 0
        with self.open() as file:
            for number, line in enumerate(file, start=1):
                if line.isascii():
                    continue
                if _decodes(line, self.name):
                    right, first = right + 1, first or number
                    continue
                wrong += 1
                if size < SAMPLE_BYTES:
                    sample.append(line)
                    size += len(line)
        if is_utf8(self.name) and right > wrong:  # by chance a few short lines in other encodings are valid UTF-8
            return f"; most other lines are, such as line {first}: correct it"
        if sample and all(_decodes(line, "utf-8") for line in sample):
            return ", but utf-8; leave `encoding` out"
        found = readings(sample)
        if not found:
            return "; set `encoding` to what the file is in, or save it as utf-8"
        shown = [f"{encoding} ({word!r})" for encoding, word in found.items()]
        return f"; it looks like {listed(shown)}: set `encoding` to the one that reads right"


def readings(lines: list[bytes]) -> dict[str, str]:
    """The encodings that lines may be in, the likeliest first, and how each reads a word that they differ in most."""
    sample = b"".join(line.rstrip(b"\r\n") + b"\n" for line in lines)
    found = charset_normalizer.from_bytes(sample, cp_isolation=[*COMMON])
    ranks = {match.encoding: rank for rank, match in enumerate(found)}
    texts: dict[str, str] = {}
    for encoding in COMMON:  # an encoding that reads no byte of the sample differently is as likely
        try:
            texts[encoding] = sample.decode(encoding)
        except UnicodeDecodeError:
            continue
    best: dict[str, int] = {}
    for encoding, rank in ranks.items():
        alike = next(name for name, text in texts.items() if text == texts[encoding])
        best[alike] = min(rank, best.get(alike, rank))
    likeliest = sorted(best, key=best.__getitem__)[:MOST_READINGS]
    words = zip(*(map(_excerpt, re.split(APART, texts[encoding])) for encoding in likeliest), strict=True)
    telling = max(words, key=lambda read: len({*read} - {""}), default=())
    return dict(zip(likeliest, telling, strict=True))


def encoding_of(path: Place, start: bytes) -> str:
    """The encoding of a file, from its first bytes. Raises `UserError` if it is UTF-16 without a byte order mark."""
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        likely = "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
        raise UserError(
            f"{path}: byte {start.index(0) + 1} is zero, as in UTF-16 without a byte order mark; set "
            f"`encoding: {likely}`, or save it as utf-8"
        )
    return "utf-8"


def is_utf8(encoding: str) -> bool:
    """Whether this is a name of UTF-8. Raises `LookupError` if no encoding has it."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def remarks_of(encoding: str, is_set: bool) -> Callable[[Mapping[str, Any]], Iterator[str]]:
    """What to remark on the cells of a row that were read in an encoding.

    Args:
        encoding: the encoding.
        is_set: whether the settings say so, and not the file.
    """
    by_mark = f"read as {encoding}, by its byte order mark"
    doubt = f"read as {encoding}, and would be valid utf-8; is `encoding` right?"

    def remarks(cells: Mapping[str, Any]) -> Iterator[str]:
        if is_utf8(encoding):
            return
        if not is_set:
            yield by_mark
        elif any(isinstance(cell, str) and not cell.isascii() and _is_utf8(cell, encoding) for cell in cells.values()):
            yield doubt

    return remarks


def _is_utf8(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding, "surrogateescape").decode()
    except UnicodeError:
        return False
    return True


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _excerpt(word: str) -> str:
    """A few characters of a word, around the first beyond ASCII; empty if there is none."""
    found = re.search(r"[^\x00-\x7f]", word)
    return word[max(0, found.start() - 8) : found.start() + 8] if found else ""
