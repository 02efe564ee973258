"""Views: changed copies of rows, which teachers see in addition to clean rows. One file per family, such as `crops.py`.

A view is a pure function of (seed, row id, view number): its random numbers come from numpy's Philox generator, keyed
by a digest of the three. So a student sees exactly the view that a teacher saw, in any order and in any process. View 0
is the clean row. A family offers

- `KIND`: the rows that it changes, "image" or "text";
- `VERSION`: increased whenever the file gives other views for the same numbers;
- `MOST`: how many different views of a row there are, the clean row not counted; None for any number;
- `Settings`: its keys in a section `teachers.NAME.views`, in addition to those of `ViewSettings`;
- for images, `NUMBERS`, how many random numbers a view takes, and `draw(settings, numbers [n, NUMBERS]) -> [n, 8]`, a
  `Change` a line for such numbers from 0 to 1, in coordinates relative to the centre square of an image, so that each
  model applies it at its own size;
- for texts, `rewrite(settings, random, *texts) -> str`, and `ROWS`, the number of texts that a view is made from. The
  first is the row's own. The second is its partner's, drawn from all other rows; in training, a view is replaced by the
  clean row if its partner is not a training row of the split.

A view has the label and the id of its row.
"""

from pipeline.views._images import Change, boxes, changed, changed_batch, changed_colours
from pipeline.views._views import Views, ViewSettings, generator, teacher_views

__all__ = [
    "Change",
    "ViewSettings",
    "Views",
    "boxes",
    "changed",
    "changed_batch",
    "changed_colours",
    "generator",
    "teacher_views",
]
