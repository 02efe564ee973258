"""Images and texts as students read them: the results of a plain loop, computed only once for all readers."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.students import student_blueprint
from pipeline.students._contract import is_on
from pipeline.students._images import Images, ImageTransform, Pixels, statistics
from pipeline.students._tokens import Texts, Tokenization, Tokens
from pipeline.students._words import Vocabulary, Words

from ..conftest import WORDS, write_encoder
from ..made_up_gpu import MadeUpGpu

ROWS = np.array([7, 0, 7, 23, 39])


@pytest.fixture
def texts(project: Path) -> Dataset:
    return Dataset.open(project / "data")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer that knows most words of the small project, as JSON."""
    folder = write_encoder(tmp_path_factory.mktemp("encoder"), WORDS[:-5], width=16, layers=1)
    return str(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The rows whose image was decoded, in order."""
    rows: list[int] = []
    image = Dataset.image

    def count(self: Dataset, row: int) -> Image.Image:
        rows.append(row)
        return image(self, row)

    monkeypatch.setattr(Dataset, "image", count)
    yield rows


def plain_pixels(data: Dataset, row: int, size: int, channels: int) -> np.ndarray:
    """The shorter side resized to `size`, the centre cut out, channels first."""
    image = data.image(row).convert("RGB" if channels == 3 else "L")
    width, height = image.size
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, channels)
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size].transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_those_of_a_plain_loop_bit_for_bit(pictures: Dataset, channels: int):
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.1][:channels]
    batch = Images(pictures, ImageTransform(16, channels, mean, std)).batch(ROWS)
    assert batch.dtype == torch.float32
    for number, row in enumerate(ROWS):
        pixels = torch.from_numpy(plain_pixels(pictures, int(row), 16, channels).copy()).float() / 255
        expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        assert torch.equal(batch[number], expected)


def test_images_that_are_kept_on_the_device_are_the_same(pictures: Dataset):
    images = Images(pictures, ImageTransform(16, 3, [0.5] * 3, [0.2] * 3))
    expected = images.batch(ROWS)
    size = 40 * 3 * 16 * 16
    assert images.keep_on(torch.device("cpu"), size) == 0, "a CPU maps them"
    assert images.keep_on(torch.device("meta"), size - 1) == 0 and images.pixels.resident is None
    assert images.keep_on(torch.device("meta"), size) == size
    assert torch.equal(images.batch(ROWS), expected), "read from the disk for another device"
    assert images.pixels.resident is not None and images.pixels.kept is not None
    images.pixels.resident = torch.from_numpy(np.array(images.pixels.kept))
    images.pixels.kept = None
    assert torch.equal(images.batch(ROWS), expected)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_images_that_are_kept_on_a_gpu_are_taken_from_there(
    pictures: Dataset, device: str, monkeypatch: pytest.MonkeyPatch
):
    images = Images(pictures, ImageTransform(16, 3, [0.5] * 3, [0.2] * 3))
    expected = images.batch(ROWS)
    with MadeUpGpu() as gpu:
        there = torch.device(device)
        assert torch.equal(images.batch(ROWS, device=there).cpu(), expected), "read, and copied"
        assert images.keep_on(there, 10**9)
        monkeypatch.delattr(Pixels, "__getitem__")  # nothing is read any more
        images.pixels.kept = None
        gpu.waits.clear()
        found = images.batch(ROWS, device=there)
        assert not gpu.waits
        assert torch.equal(found.cpu(), expected)


def test_a_device_without_a_number_is_any_of_its_kind():
    class On:
        def __init__(self, device: str):
            self.device = torch.device(device)

    def found(tensor: str, device: str) -> bool:
        return bool(inspect.unwrap(is_on)(On(tensor), torch.device(device)))  # type: ignore[arg-type]

    assert found("cuda:0", "cuda") and found("cuda:1", "cuda") and found("cuda:1", "cuda:1") and found("cpu", "cpu")
    assert not found("cuda:0", "cuda:1") and not found("cpu", "cuda") and not found("cuda:0", "cpu")


def test_statistics_are_those_of_the_pixels(pictures: Dataset):
    found = statistics(pictures, ROWS, 16, 3)
    pixels = np.stack([plain_pixels(pictures, int(row), 16, 3) for row in ROWS]) / 255
    np.testing.assert_allclose(found["mean"], pixels.mean((0, 2, 3)))
    np.testing.assert_allclose(found["std"], pixels.std((0, 2, 3)), rtol=1e-6)


def test_tokens_are_those_of_the_tokenizer_padded_to_the_longest_of_the_batch(texts: Dataset, tokenizer: str):
    library = Tokenizer.from_str(tokenizer)
    library.enable_truncation(7)
    numbers, mask = Tokens(texts, Tokenization(library.to_str(), pad=9)).batch(ROWS)
    encoded = [library.encode(text).ids for text in texts.content(ROWS)]
    longest = max(map(len, encoded))
    assert numbers.tolist() == [ids + [9] * (longest - len(ids)) for ids in encoded]
    assert mask.tolist() == [[True] * len(ids) + [False] * (longest - len(ids)) for ids in encoded]
    assert numbers.dtype == torch.int64


def words_of(data: Dataset, vocabulary: Vocabulary) -> Words:
    return Words(data, vocabulary.key, vocabulary.encode)


@pytest.mark.parametrize("pairs", [False, True])
def test_words_are_the_known_ones_in_their_order(texts: Dataset, pairs: bool):
    vocabulary = ["word3", "good1", "word7 word9", *(f"word{n}" for n in range(10, 40))]
    numbers, offsets = words_of(texts, Vocabulary(vocabulary, pairs)).batch(ROWS)
    expected, starts = [], []
    for text in texts.content(ROWS):
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        words += [f"{one} {other}" for one, other in pairwise(words)] if pairs else []
        starts.append(len(expected))
        expected += [vocabulary.index(word) + 1 for word in words if word in vocabulary] or [0]
    assert numbers.tolist() == expected
    assert offsets.tolist() == starts
    assert numbers.dtype == torch.int64


def test_a_text_without_a_known_word_is_number_0(texts: Dataset):
    numbers, offsets = words_of(texts, Vocabulary(["nowhere"], False)).batch(ROWS)
    assert numbers.tolist() == [0] * len(ROWS)
    assert offsets.tolist() == list(range(len(ROWS)))


def test_every_image_is_decoded_once_for_all_splits_seeds_and_students(pictures: Dataset, decoded: list[int]):
    section = {"family": "compact_cnn", "width": 16, "size": 16}
    for train in (np.arange(20), np.arange(10, 40)):
        blueprint = student_blueprint(section, "students.x", pictures, train)
        blueprint.inputs(pictures).batch(train)
    Images(Dataset.open(pictures.path), ImageTransform(16, 3, [0.0] * 3, [1.0] * 3)).batch(ROWS)
    assert sorted(decoded) == list(range(40))
    Images(pictures, ImageTransform(20, 3, [0.0] * 3, [1.0] * 3))
    Images(pictures, ImageTransform(16, 1, [0.0], [1.0]))
    assert len(decoded) == 120, "other sizes and channels are other pixels"


def test_pixels_of_another_decoder_are_not_used(pictures: Dataset, decoded: list[int], monkeypatch: pytest.MonkeyPatch):
    Pixels(pictures, 16, 3)
    monkeypatch.setattr("pipeline.images.VERSION", 0)
    Pixels(pictures, 16, 3)
    assert sorted(decoded) == sorted([*range(40)] * 2)


COUNT = """
import sys, time
from pipeline.data import Dataset
from pipeline.students._images import Pixels
data = Dataset.open(sys.argv[1])
count = 0
image = Dataset.image
def slow(self, row):
    global count
    count += 1
    time.sleep(0.02)
    return image(self, row)
Dataset.image = slow
sys.stdin.readline()
print(Pixels(data, 16, 3)[range(40)].sum(), count)
"""


def test_of_two_processes_at_the_same_time_one_decodes(pictures: Dataset):
    command = [sys.executable, "-c", COUNT, str(pictures.path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(int(count) for _, count in answers) == [0, 40]
    assert len({total for total, _ in answers}) == 1


@pytest.fixture
def kept(pictures: Dataset) -> Path:
    """The folder in which the pixels of the pictures are kept."""
    Pixels(pictures, 16, 3)
    (record,) = (pictures.path.parent / ".aft" / "inputs").rglob("arrays.json")
    return record.parent


@pytest.mark.parametrize("damage", ["short", "record", "unfinished"])
def test_what_is_damaged_is_decoded_again(pictures: Dataset, kept: Path, decoded: list[int], damage: str):
    before = Pixels(pictures, 16, 3)[ROWS]
    match damage:
        case "short":
            (kept / "pixels.bin").write_bytes((kept / "pixels.bin").read_bytes()[:-1])
        case "record":
            (kept / "arrays.json").write_text('{"arrays": ')
        case "unfinished":
            (kept / "arrays.json").unlink()
    assert decoded == []
    assert np.array_equal(Pixels(pictures, 16, 3)[ROWS], before)
    assert len(decoded) == 40


def test_a_changed_byte_is_noticed_by_the_next_process(pictures: Dataset, kept: Path):
    before = int(Pixels(pictures, 16, 3)[np.arange(40)].sum())
    content = bytearray((kept / "pixels.bin").read_bytes())
    content[5] ^= 1
    (kept / "pixels.bin").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(pictures.path)], input="go\n", capture_output=True, text=True, check=True
    )
    total, count = map(int, done.stdout.split())
    assert (total, count) == (before, 40)


def test_a_dataset_that_was_prepared_anew_leaves_no_old_pixels(pictures: Dataset, kept: Path):
    root = pictures.path.parent
    (root / "raw" / "dark" / "00.png").unlink()
    source = {"family": "image_folder", "path": str(root / "raw")}
    prepare(PrepareSettings(source=source, val=6, test=8), pictures.path)
    assert Pixels(Dataset.open(pictures.path), 16, 3).shape == (3, 16, 16)
    assert not kept.exists()
    assert len(list((root / ".aft" / "inputs").rglob("arrays.json"))) == 1


def test_images_that_do_not_fit_on_the_disk_are_decoded_for_each_batch(
    pictures: Dataset, decoded: list[int], monkeypatch: pytest.MonkeyPatch
):
    expected = Pixels(pictures, 16, 1)[ROWS]
    decoded.clear()
    full = type("Usage", (), {"free": 0})
    monkeypatch.setattr("pipeline.students._images.shutil.disk_usage", lambda path: full)
    assert np.array_equal(Pixels(pictures, 16, 1)[ROWS], expected), "what is there is used"
    assert decoded == []
    colour = Pixels(pictures, 16, 3)
    assert decoded == []
    for number, row in enumerate(ROWS):
        assert np.array_equal(colour[ROWS][number], plain_pixels(pictures, int(row), 16, 3))
    assert not [
        record for record in (pictures.path.parent / ".aft").rglob("*.bin") if record.stat().st_size != 40 * 256
    ]


def test_a_full_disk_is_one_line(pictures: Dataset, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.students._cache.os.replace", full)
    with pytest.raises(UserError, match=r"the disk is full; free some space"):
        Pixels(pictures, 16, 3)
    assert list((pictures.path.parent / ".aft" / "inputs").rglob("*.bin*")) == []


def test_texts_are_encoded_once_for_the_same_vocabulary(texts: Dataset, monkeypatch: pytest.MonkeyPatch):
    vocabulary = ["word3", "word4"]
    before = words_of(texts, Vocabulary(vocabulary, False)).batch(ROWS)
    read: list[int] = []
    monkeypatch.setattr(Dataset, "content", lambda self, rows: read.extend(rows) or ["word4"] * len(rows))
    again = words_of(Dataset.open(texts.path), Vocabulary(vocabulary, False)).batch(ROWS)
    assert all(torch.equal(one, other) for one, other in zip(before, again, strict=True))
    assert read == []
    assert words_of(texts, Vocabulary(vocabulary[::-1], False)).batch(ROWS)[0].tolist() == [1] * len(ROWS)
    assert read == list(range(len(texts)))


def test_a_text_without_a_token_is_refused_by_its_row(texts: Dataset):
    def encode(batch: list[str]) -> list[list[int]]:
        return [[1, 2] if text != texts.content([5])[0] else [] for text in batch]

    with pytest.raises(UserError, match=rf"row {texts.ids[5]}: this student's tokenizer finds no token"):
        Texts(texts, {}, encode)
    assert list((texts.path.parent / ".aft" / "inputs").rglob("*.bin*")) == []
