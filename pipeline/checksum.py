"""A checksum that keeps up with the disk: 64 bits, at gigabytes a second.

CRC-32C and CRC-32 side by side: two polynomials without a common factor, so together they are a CRC of 64 bits. They
find every error of up to 64 bits in a row for certain, and any other with a chance of 1 - 2^-64, at several times the
speed of a cryptographic hash. Like every checksum that is kept with the data, they are no defence against somebody who
changes both; against that, keep a store's content digest elsewhere, as DVC does.
"""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import google_crc32c

from pipeline.files import open_regular

BLOCK = 1 << 20


def checksum(parts: Iterable[bytes | memoryview]) -> str:
    """The checksum of all parts one after the other, 16 hex digits."""
    castagnoli = classic = 0
    for part in parts:
        view = memoryview(part)
        for start in range(0, view.nbytes, BLOCK):
            block = bytes(view[start : start + BLOCK])
            castagnoli = google_crc32c.extend(castagnoli, block)
            classic = zlib.crc32(block, classic)
    return f"{castagnoli:08x}{classic:08x}"


def file_checksum(path: Path) -> str:
    """The checksum of a file's bytes. Raises as `open_regular`."""
    with os.fdopen(open_regular(path), "rb") as file:
        return checksum(iter(lambda: file.read(BLOCK), b""))
