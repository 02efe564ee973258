"""Teachers in the loop: with `teacher: live`, a run computes in every step what it would read from the store.

For views that no store has: each (row, view) of a step is new if `train.views` is large. The probes, and everything
that methods look at before training, are those of the clean rows in the store, so these are extracted and probed as
ever. It is the only module of training that knows teachers, and is imported only for a run that asks for them.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data import Dataset
from pipeline.errors import UserError, count, listed
from pipeline.extraction import ExtractSettings, load_teacher, recipe_of, slices
from pipeline.params import Params
from pipeline.sources import Source
from pipeline.store import NotFinite, SourceFeatures, as_stored, differences
from pipeline.teachers import Teacher
from pipeline.views import Views


class LiveTeachers:
    """The teachers of a run, ready to look at rows.

    Args:
        params: all settings.
        data: the dataset.
        features: what the store has of each source that the run reads.
        views: of the rows, if the run has any.

    Raises:
        UserError: a teacher cannot be loaded, or is another one than that of the store and its probes.
    """

    def __init__(
        self, params: Params, data: Dataset, features: Mapping[Source, SourceFeatures], views: Views | None = None
    ):
        self.features, self.views = features, views
        self.settings = params.read(ExtractSettings, "extract")
        names = dict.fromkeys(source.teacher for source in features)
        self.teachers = {name: load_teacher(params, name, data) for name in names}
        for source, found in features.items():
            _check_same(source, *self.teachers[source.teacher], found)
        self._pool = ThreadPoolExecutor(max(1, torch.get_num_threads()), thread_name_prefix="aft-live")

    def __call__(
        self, rows: np.ndarray, views: np.ndarray | None, device: torch.device
    ) -> dict[Source, Float[Tensor, "n _"]]:
        """What each source says about rows, float32, rounded as its store rounds.

        Args:
            rows: numbers of rows of the dataset [n].
            views: the number of each row's view, any from 0, which is the clean row; clean rows if None.
            device: where the result is wanted.

        Raises:
            UserError: a row cannot be read, or a value is NaN or infinite.
        """
        seen = np.zeros(len(rows), np.int64) if views is None else views
        outputs = {name: self._outputs(name, rows, seen) for name in self.teachers}
        found = {}
        for source, of in self.features.items():
            try:
                values = as_stored(outputs[source.teacher][source.head], source.head, of.store.heads[source.head])
            except NotFinite as error:
                some = listed([str(id) for id in self.teachers[source.teacher][1].ids[rows[error.rows[:3]]]])
                raise UserError(
                    f"teachers.{source.teacher}: head `{source.head}` is NaN or infinite for views of "
                    f"{count(len(error.rows), 'row')}, such as {some}; take milder views"
                ) from None
            found[source] = torch.from_numpy(values).float().to(device)
        return found

    def _outputs(self, name: str, rows: np.ndarray, views: np.ndarray) -> dict[str, Float[np.ndarray, "n ..."]]:
        """What a teacher says about rows, in their order, by head."""
        teacher, _ = self.teachers[name]
        heads = {source.head for source in self.features if source.teacher == name}
        examples = list(self._pool.map(partial(self._example, name), rows.tolist(), views.tolist()))
        # As in extraction: little of a batch is padding if its rows are of about one length.
        order = np.argsort([-teacher.cost(example) for example in examples], kind="stable")
        parts = []
        for places in slices(order, self.settings.batch_rows(teacher.device)):
            batch = teacher.collate([examples[place] for place in places])
            outputs = teacher.forward({key: tensor.to(teacher.device) for key, tensor in batch.items()})
            parts.append({head: outputs[head].float().cpu().numpy() for head in heads})
        back = np.argsort(order)
        return {head: np.concatenate([part[head] for part in parts])[back] for head in heads}

    def _example(self, name: str, row: int, view: int) -> Any:
        """A row, or a view of it, as a teacher takes it."""
        teacher, data = self.teachers[name]
        try:
            if view and self.views:
                return teacher.transform(self.views.content(data, row, view))
            return teacher.transform(str(data.ids[row]) if teacher.kind == "id" else data.content([row])[0])
        except ValueError as error:
            which = f"view {view} of row" if view else "row"
            raise UserError(f"{data.path}: {which} {data.ids[row]} cannot be read: {error}") from None


def _check_same(source: Source, teacher: Teacher, data: Dataset, features: SourceFeatures) -> None:
    """Make sure that a teacher computes what the store has. Raises `UserError` if not."""
    name, store = source.teacher, features.store
    if source.head not in teacher.heads:
        raise UserError(f"teachers.{name}: no head `{source.head}` among its `heads`, and a live teacher needs it")
    recipe, of_head = recipe_of(teacher, data), teacher.head_recipes.get(source.head)
    kept = store.heads[source.head].recipe
    if changed := [*differences(dict(store.recipe), recipe), *differences(kept or {}, dict(of_head or {}))]:
        raise UserError(
            f"{store.path}: not the features of teachers.{name} as it is now ({', '.join(changed)}); run "
            f"`aft extract {name}` and `aft probe {name}`"
        )
