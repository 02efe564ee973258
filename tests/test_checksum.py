"""The checksum against its definition, bit by bit."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline import checksum as module
from pipeline.checksum import checksum, file_checksum


def remainder(data: bytes, polynomial: int) -> int:
    """A reflected CRC-32, one bit at a time."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (polynomial if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@given(st.binary(max_size=200))
def test_it_is_two_crcs_side_by_side(data: bytes):
    assert checksum([data]) == f"{remainder(data, 0x82F63B78):08x}{remainder(data, 0xEDB88320):08x}"


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_how_the_bytes_are_divided_makes_no_difference(parts: list[bytes], block: int):
    whole = checksum([b"".join(parts)])
    before, module.BLOCK = module.BLOCK, block
    try:
        assert checksum([memoryview(part) for part in parts]) == whole
    finally:
        module.BLOCK = before


@given(st.binary(min_size=1, max_size=60), st.data())
def test_every_run_of_up_to_64_wrong_bits_is_seen(data: bytes, choice: st.DataObject):
    bits = 8 * len(data)
    error = choice.draw(st.integers(1, 2 ** min(64, bits) - 1))
    shift = choice.draw(st.integers(0, bits - error.bit_length()))
    # Bits of a byte go through a reflected CRC from the lowest: little-endian keeps a run together.
    changed = (int.from_bytes(data, "little") ^ error << shift).to_bytes(len(data), "little")
    assert checksum([changed]) != checksum([data])


def test_a_file_has_the_checksum_of_its_bytes(tmp_path: Path):
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert file_checksum(tmp_path / "a") == checksum([data])
