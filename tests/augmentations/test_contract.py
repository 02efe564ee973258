"""What every augmentation promises: a pure function of (seed, row, epoch), in a batch as one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.augmentations import Augmenter, read_augmentations
from pipeline.errors import UserError
from pipeline.plugins import plugin, plugins

IMAGES = [name for name in plugins("augmentations") if plugin("augmentations", name).KIND == "image"]
MIXING = [name for name in IMAGES if hasattr(plugin("augmentations", name), "mix")]
ALL = {name: {} for name in IMAGES}
LABELLED = np.arange(40, 80)
ROWS = np.array([44, 41, 70, 63, 44, 58, 77, 49, 52, 45])


def augmenter(section: dict[str, Any], seed: int = 0) -> Augmenter:
    return Augmenter(read_augmentations(section, "train.augment"), seed, LABELLED)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """A hundred smooth pictures [100, 3, 16, 16]."""
    small = torch.rand(100, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, size=16, mode="bicubic").clamp(0, 1)


def pictures_of(section: dict[str, Any], pictures: Tensor, rows: np.ndarray, epoch: int, labelled: int = -1) -> Tensor:
    drawn = augmenter(section).draw(rows, len(rows) if labelled < 0 else labelled, epoch)
    return drawn.images(pictures[np.concatenate([rows, drawn.others])])


@pytest.mark.parametrize("section", [*({name: {}} for name in IMAGES), ALL], ids=[*IMAGES, "all"])
def test_a_picture_follows_from_seed_row_and_epoch_alone(section: dict[str, Any], pictures: Tensor):
    whole = pictures_of(section, pictures, ROWS, 3)
    assert torch.equal(whole[0], whole[4])  # the same row
    torch.testing.assert_close(pictures_of(section, pictures, ROWS[::-1].copy(), 3).flip(0), whole)
    alone = torch.cat([pictures_of(section, pictures, ROWS[k : k + 1], 3) for k in range(len(ROWS))])
    torch.testing.assert_close(alone, whole)
    np.random.seed(1)
    torch.manual_seed(1)  # global generators have no say
    assert torch.equal(pictures_of(section, pictures, ROWS, 3), whole)
    assert not torch.equal(pictures_of(section, pictures, ROWS, 4), whole)
    other = augmenter(section, seed=1).draw(ROWS, len(ROWS), 3)
    assert not torch.equal(other.images(pictures[np.concatenate([ROWS, other.others])]), whole)


def test_rows_for_methods_are_augmented_in_their_own_epoch_and_never_mixed(pictures: Tensor):
    drawn = augmenter(ALL).draw(ROWS, 4, 3, 7)
    found = drawn.images(pictures[np.concatenate([ROWS, drawn.others])])
    torch.testing.assert_close(found[:4], pictures_of(ALL, pictures, ROWS, 3, labelled=4)[:4])
    unmixed = {name: {} for name in IMAGES if name not in MIXING}
    torch.testing.assert_close(found[4:], pictures_of(unmixed, pictures, ROWS, 7)[4:])
    places = np.array([1, 3, 5, 8])
    some = drawn.some(places)
    part = some.images(pictures[np.concatenate([ROWS[places], some.others])])
    torch.testing.assert_close(part, found[places])


@pytest.mark.parametrize("name", IMAGES)
def test_pictures_stay_pictures_and_differ_from_the_clean_ones(name: str, pictures: Tensor):
    for channels in (1, 3):
        clean = pictures[:, :channels]
        rows = np.tile(LABELLED, 3)
        found = torch.cat([pictures_of({name: {}}, clean, LABELLED, epoch) for epoch in range(3)])
        assert found.shape == (120, channels, 16, 16) and found.dtype == torch.float32
        assert found.min() >= 0 and found.max() <= 1
        changed = (found - clean[rows]).abs().amax((1, 2, 3)) > 1e-3
        assert changed.float().mean() > 0.15


def test_rows_after_the_labelled_batch_stay_clean(pictures: Tensor):
    found = pictures_of(ALL, pictures, ROWS, 0, labelled=4)
    assert torch.equal(found[4:], pictures[ROWS[4:]])
    assert torch.equal(found[:4], pictures_of(ALL, pictures, ROWS[:4], 0))


def test_another_augmentation_leaves_the_numbers_of_the_others(pictures: Tensor):
    alone = pictures_of({"crop": {}}, pictures, ROWS, 0)
    both = pictures_of({"erase": {"share": 0.0}, "crop": {}}, pictures, ROWS, 0)
    torch.testing.assert_close(both, alone)


def test_the_order_of_the_file_is_not_that_of_application():
    names = [each.name for each in read_augmentations(dict(reversed(ALL.items())), "x")]
    expected = ["crop", "flip", "rand_augment", "trivial_augment", "colour", "erase", "mixup", "cutmix"]
    assert names == expected
    assert sorted(names) == sorted(IMAGES)


@pytest.mark.parametrize("name", MIXING)
def test_a_mixture_is_of_two_labelled_rows_in_their_shares(name: str, pictures: Tensor):
    flat = torch.arange(100.0).div(100).reshape(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    drawn = augmenter({name: {"share": 0.7, "alpha": 1.0}}).draw(LABELLED, 40, 0)
    mixed = drawn.shares < 1
    assert 0.4 < mixed.mean() < 0.95
    assert (drawn.partners[~mixed] == LABELLED[~mixed]).all()
    assert np.isin(drawn.partners, LABELLED).all()
    assert (drawn.partners[mixed] != LABELLED[mixed]).mean() > 0.8
    found = drawn.images(flat[np.concatenate([LABELLED, drawn.others])]).mean((1, 2, 3))
    expected = (drawn.shares * LABELLED + (1 - drawn.shares) * drawn.partners) / 100
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_partner_in_a_mixture_is_augmented_as_it_would_be_itself(pictures: Tensor):
    section = {"crop": {}, "mixup": {"alpha": 1.0}}
    drawn = augmenter(section).draw(ROWS, len(ROWS), 2)
    alone = pictures_of({"crop": {}}, pictures, LABELLED, 2)
    share = torch.from_numpy(drawn.shares).float().reshape(-1, 1, 1, 1)
    expected = share * alone[ROWS - 40] + (1 - share) * alone[drawn.partners - 40]
    torch.testing.assert_close(pictures_of(section, pictures, ROWS, 2), expected)


def test_where_several_mix_each_row_draws_one(pictures: Tensor):
    drawn = augmenter({"mixup": {"alpha": 1.0}, "cutmix": {}}).draw(LABELLED, 40, 0)
    (_, one), (_, other) = drawn._mixed
    assert len(one) > 8 and len(other) > 8
    assert sorted([*one, *other]) == list(range(40))


def texts(share: float, epoch: int = 0, rows: np.ndarray = ROWS, fixed: tuple[int, ...] = ()) -> list[list[int]]:
    """Rows of 3 to 12 tokens: the number of the row, a hundred times, and of the word; 1 and 2 at the ends."""
    made = [[1, *(100 * row + word for word in range(row % 10 + 1)), 2] for row in rows.tolist()]
    lengths = np.array([len(each) for each in made])
    drawn = augmenter({"word_dropout": {"share": share}}).draw(rows, len(rows), epoch)
    numbers, kept = drawn.texts(np.concatenate([np.array(each) for each in made]), lengths, fixed)
    assert numbers.dtype == np.int64 and kept.sum() == len(numbers)
    return [part.tolist() for part in np.split(numbers, np.cumsum(kept)[:-1])]


def test_words_are_left_out_by_their_own_numbers():
    whole = texts(0.0001, fixed=(1, 2))
    found = texts(0.4, fixed=(1, 2))
    for before, after in zip(whole, found, strict=True):
        assert after == [token for token in before if token in set(after)]  # in order
        assert after[0] == 1 and after[-1] == 2 and len(after) > 2
    assert sum(map(len, found)) < 0.85 * sum(map(len, whole))
    assert texts(0.4, rows=ROWS[::-1].copy(), fixed=(1, 2))[::-1] == found
    assert [texts(0.4, rows=ROWS[k : k + 1], fixed=(1, 2))[0] for k in range(len(ROWS))] == found
    assert texts(0.4, 1, fixed=(1, 2)) != found


def test_a_text_keeps_a_word_besides_those_that_always_stay():
    for each in texts(0.9999, fixed=(1, 2)):
        assert len(each) == 3 and (each[0], each[2]) == (1, 2)
    assert all(len(each) == 1 for each in texts(0.9999))


def test_the_share_of_words_that_is_left_out_is_as_asked():
    rows = np.arange(400)
    drawn = augmenter({"word_dropout": {"share": 0.3}}).draw(rows, 400, 0)
    numbers, _ = drawn.texts(np.zeros(400 * 50, np.int64), np.full(400, 50))
    assert 0.68 < len(numbers) / (400 * 50) < 0.72


def test_texts_after_the_labelled_batch_stay_clean():
    drawn = augmenter({"word_dropout": {"share": 0.5}}).draw(np.arange(4), 2, 0)
    numbers, lengths = drawn.texts(np.arange(40), np.full(4, 10))
    assert lengths[2:].tolist() == [10, 10] and numbers[-20:].tolist() == list(range(20, 40))
    assert lengths[:2].sum() < 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crops": {}}, r"no 'crops' in pipeline/augmentations/ \(did you mean `crop`\?\); there are colour, crop"),
        ({"crop": {"size": 1}}, r"augment\.crop: unknown key `size`; allowed are ratio, smallest"),
        ({"crop": {"smallest": 0.0}}, r"augment\.crop\.smallest.* should be greater than 0, found 0\.0"),
        ({"mixup": {"alpha": -1.0}}, r"augment\.mixup\.alpha.* should be greater than 0, found -1\.0"),
        ({"erase": {"smallest": 0.5}}, r"augment\.erase.*smallest is 0\.5 and largest 0\.33; exchange them"),
        ({"flip": None}, r"augment\.flip: expected a mapping of its settings, such as \{\}, found None"),
        ({"flip": {}, "word_dropout": {}}, r"of images and of texts together: flip \(image\), word_dropout \(text\)"),
    ],
)
def test_wrong_augmentations_are_refused_in_one_line(values: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as caught:
        read_augmentations(values, "params.yaml: train.augment")
    assert "\n" not in str(caught.value)


def test_some_of_the_rows_are_what_they_are_among_all(pictures: Tensor):
    drawn = augmenter(ALL).draw(ROWS, 7, 1)
    whole = drawn.images(pictures[np.concatenate([ROWS, drawn.others])])
    places = np.array([1, 3, 6, 8, 9, 9])
    some = drawn.some(places)
    assert some.labelled == 3
    found = some.images(pictures[np.concatenate([some.rows, some.others])])
    torch.testing.assert_close(found, whole[places])
