"""Augmentations: random changes of the labelled rows of a training step. One file each, such as `crop.py`.

    train: {augment: {crop: {}, flip: {}, mixup: {alpha: 0.2}}}

The augmented row is a pure function of (seed, row, epoch): each augmentation has its own random numbers, from Philox,
keyed by the seed and its name. So it does not depend on the other rows of a batch, their order, the process, or
other augmentations. Rows of validation and test are not augmented, and those that methods see only with
`train.augment_transfer`, and never mixed.

A file offers

- `KIND`: the rows that it changes, "image" or "text";
- `PLACE`: its position in the order in which augmentations are applied; the order in params.yaml does not matter;
- `Settings`: its keys in `train.augment.NAME`;
- for images, `numbers(settings)`, how many random numbers a row takes, k, and `change(settings, images, numbers)`:
  images float [n, c, h, w] in 0..1 on any device, changed by numbers [n, k] from 0 to 1, which are on the host, so that
  nothing waits for the device;
- for images that are mixed with those of another labelled row, instead of `change`, `share(settings, numbers) -> [n]`,
  the share of the row's own image and label, and `mix(settings, images, others, numbers)`. If several augmentations
  mix, each row uses one of them at random;
- for texts, `keep(settings, numbers) -> bool`: which words of a text are kept, by one number per word.
"""

from pipeline.augmentations._augmentations import (
    Augmentation,
    Augmented,
    Augmenter,
    check_kind,
    read_augmentations,
)

__all__ = ["Augmentation", "Augmented", "Augmenter", "check_kind", "read_augmentations"]
