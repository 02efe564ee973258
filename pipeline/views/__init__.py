"""Views: changed copies of rows, which teachers see besides the clean ones. One file a family: `crops` is `crops.py`.

A view is a pure function of (seed, row id, view number): its random numbers come from numpy's Philox generator, keyed
by a digest of the three, and from nothing else. So a student sees the very view that a teacher saw, in whatever order,
process or year. View 0 is the clean row. A family offers

- `KIND`: the rows that it changes, "image" or "text";
- `VERSION`: raised whenever the file gives other views for the same numbers;
- `MOST`: how many different views of a row there are besides the clean one, None for any number;
- `Settings`: its keys in a section `teachers.NAME.views`, besides those of `ViewSettings`;
- for images, `draw(settings, random) -> Change`, in coordinates relative to the centre square of an image, so that each
  model applies it at its own size;
- for texts, `rewrite(settings, random, *texts) -> str`, and `ROWS`, of how many texts a view is made. The first is the
  row's own. The second is that of its partner, drawn from all other rows; in training, a view whose partner is no
  training row of the split gives way to the clean row.

A view needs no label and no id: it has those of its row.
"""

from pipeline.views._images import Change, changed, changed_batch
from pipeline.views._views import Views, ViewSettings, generator, teacher_views

__all__ = ["Change", "ViewSettings", "Views", "changed", "changed_batch", "generator", "teacher_views"]
