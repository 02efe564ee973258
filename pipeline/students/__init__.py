"""Small models that learn, one file a family: `family: bag_of_words` is `bag_of_words.py`.

A family offers

- `KIND`: what it reads: "text", "image" or "pair", the rows of the dataset; or "features", those of the run's teachers;
  None where its setting `kind` says it;
- `Settings`: its keys in a section of `students`;
- `fit(settings, data, rows)`: what building the student needs to know of the training rows `rows`, such as a
  vocabulary, as JSON-like data; it reads no other rows;
- `inputs(settings, fitted, data, views=None)`: an `Inputs`, the dataset as this student reads it. `views` are the
  `Views` of its rows if the run has any; a family that reads features does not take them;
- `preprocessing(settings, fitted)`: a `Preprocessing`, which turns new rows into the student's input exactly as
  `inputs` does for the rows of a dataset. A family that reads features leaves it out;
- `solve(settings, student, inputs, rows, labels, task)`: gives the student its weights from the labels of rows, in one
  go on a CPU. Only a family that is not trained step by step has it; its students take no methods;
- `build(settings, fitted, classes, pretrained=True)`: a `Student`, initialised from torch's current random state and,
  if its settings ask for it, from pretrained weights. With `pretrained=False` only its shape counts, because weights
  are about to be loaded, and it needs no file apart from the checkpoint.

A family whose students run code that their settings name has `RUNS_CODE = True`, and is asked about before it is loaded
from elsewhere.

`data` is the `Dataset`. A family that reads features gets a mapping instead: a reader of the dataset's features for
each source, by name and in the run's order, the same for `inputs` as for `fit`. Features are fixed, so such a student
takes no methods.
"""

from pipeline.students._checkpoints import (
    STUDENT,
    Blueprint,
    is_solved,
    kind_of,
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
    "is_solved",
    "kind_of",
    "load_student",
    "place",
    "predict",
    "save_student",
    "student_blueprint",
    "student_outputs",
]
