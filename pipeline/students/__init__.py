"""Small models that learn, one file a family: `family: bag_of_words` is `bag_of_words.py`.

A family offers

- `KIND`: what it reads: "text" or "image", the dataset's rows, or "features", those of the run's teachers;
- `Settings`: its keys in a section of `students`;
- `fit(settings, data, rows)`: what must be known of the training rows before the student can be built, such as a
  vocabulary, as JSON-like data; it uses no other rows;
- `inputs(settings, fitted, data, views=None)`: the dataset as this student reads it, an `Inputs`; with the `Views` of
  its rows, if its run has any, which a family that reads features does not take;
- `preprocessing(settings, fitted)`: what turns new rows into the input of the student, a `Preprocessing`, just as
  `inputs` does for those of a dataset; left out by a family that reads features;
- `build(settings, fitted, classes, pretrained=True)`: a `Student`, initialised from torch's current random state and,
  if its settings ask for it, pretrained weights; with `pretrained=False` it only has the shape of one, because weights
  are about to be loaded, and needs no file but the checkpoint's own.

`data` is the `Dataset` dataset. For a family that reads features it is a reader of each source's features instead, by
the source's name and in the run's order; they are of the dataset, and
in `inputs` the same as in `fit`. Features do not train, so such a student takes no methods.
"""

from pipeline.students._checkpoints import (
    STUDENT,
    Blueprint,
    load_student,
    predict,
    save_student,
    student_blueprint,
    student_outputs,
)
from pipeline.students._contract import CPU, Graph, Inputs, Kind, Preprocessing, Scaled, Student, place

__all__ = [
    "CPU",
    "STUDENT",
    "Blueprint",
    "Graph",
    "Inputs",
    "Kind",
    "Preprocessing",
    "Scaled",
    "Student",
    "load_student",
    "place",
    "predict",
    "save_student",
    "student_blueprint",
    "student_outputs",
]
