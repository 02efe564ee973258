"""Augmentations: random changes of the labelled rows of a training step. One file each, such as `crop.py`.

    train: {augment: {crop: {}, flip: {}, mixup: {alpha: 0.2}}}

What becomes of a row is a pure function of (seed, row, epoch): each augmentation has random numbers of its own, by
Philox, keyed by the seed and its name. So it does not depend on the other rows of a batch, their order, the process, or
which other augmentations there are. Rows of validation and test, and those that methods see, are not augmented.

A file offers

- `KIND`: the rows that it changes, "image" or "text";
- `PLACE`: its place in the order in which augmentations are applied, whatever the order in params.yaml;
- `Settings`: its keys in `train.augment.NAME`;
- for images, `numbers(settings)`, how many random numbers a row takes, k, and `change(settings, images, numbers)`:
  images float [n, c, h, w] in 0..1 on any device, changed by numbers [n, k] from 0 to 1, which are on the host, so that
  nothing waits for the device;
- for images that are mixed with those of another labelled row, in place of `change`, `share(settings, numbers) -> [n]`,
  the share of the row's own image and label, and `mix(settings, images, others, numbers)`. Where several mix, each row
  draws one of them;
- for texts, `keep(settings, numbers) -> bool`, which of a text's words stay, by a number for each.
"""

from pipeline.augmentations._augmentations import (
    Augmentation,
    Augmented,
    Augmenter,
    check_kind,
    read_augmentations,
)

__all__ = ["Augmentation", "Augmented", "Augmenter", "check_kind", "read_augmentations"]
