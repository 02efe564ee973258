"""What bad input gets: one table of everything that may be wrong, how to make it so, and the line that answers.

`tests/test_errors.py` runs every row as a user types it; `python -m tests.errors > docs/errors.md` writes the page.
A row is added here and nowhere else.
"""

import fcntl
import io
import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
import yaml
from PIL import Image

Change = Callable[[Path], object]
"""Makes something wrong in the folder of a project."""


@dataclass(frozen=True)
class Case:
    """One thing that may be wrong.

    Attributes:
        about: the heading on the page under which it stands.
        wrong: what is wrong, in a few words.
        change: makes it so in a prepared, extracted and probed project.
        command: what the user types after `aft`.
        answer: all that is printed to stderr after `error: `. `<...>` stands for what differs from machine to machine.
    """

    about: str
    wrong: str
    change: Change
    command: str
    answer: str


def nothing(project: Path) -> None:
    """The command is wrong by itself."""


def write(name: str, text: str | bytes) -> Change:
    """Replace a file, whatever was there."""

    def change(project: Path) -> None:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return change


def folder(name: str) -> Change:
    """Put a folder where a file should be."""

    def change(project: Path) -> None:
        path = project / name
        if path.is_file():
            path.unlink()
        (path / "inside").mkdir(parents=True)

    return change


def file(name: str) -> Change:
    """Put a file where a folder should be."""

    def change(project: Path) -> None:
        path = project / name
        if path.exists():
            path.rename(project / "moved away")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a file\n")

    return change


def flip(name: str, at: float = 0.5) -> Change:
    """Change one bit of a file; it stays as long as it was."""

    def change(project: Path) -> None:
        content = bytearray((project / name).read_bytes())
        content[int(at * len(content))] ^= 1
        (project / name).write_bytes(content)

    return change


def cut(name: str, to: float = 0.5) -> Change:
    """Cut the end of a file off."""

    def change(project: Path) -> None:
        os.truncate(project / name, int(to * (project / name).stat().st_size))

    return change


def gone(name: str) -> Change:
    """Remove a file."""

    def change(project: Path) -> None:
        (project / name).unlink()

    return change


def edit(name: str, **values: object) -> Change:
    """Set keys of a JSON file, as an editor would."""

    def change(project: Path) -> None:
        content = json.loads((project / name).read_text())
        (project / name).write_text(json.dumps(content | values))

    return change


def edit_record(name: str, **values: object) -> Change:
    """Set keys of a record, with a checksum that fits."""

    def change(project: Path) -> None:
        from pipeline.records import CHECKSUM, to_json

        content = json.loads((project / name).read_text()) | values
        (project / name).write_text(to_json({key: value for key, value in content.items() if key != CHECKSUM}))

    return change


def both(*changes: Change) -> Change:
    """Several changes, in order."""

    def change(project: Path) -> None:
        for one in changes:
            one(project)

    return change


def pipe(name: str) -> Change:
    """Put a pipe where a file should be: to open it waits for a writer."""

    def change(project: Path) -> None:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return change


def link(name: str, target: str) -> Change:
    """Put a symbolic link where a file or folder should be."""

    def change(project: Path) -> None:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return change


def hdf5(fill: Callable[[h5py.File], object]) -> Change:
    """Write x.h5."""

    def change(project: Path) -> None:
        with h5py.File(project / "x.h5", "w") as file:
            fill(file)

    return change


def tensors(**values: torch.Tensor) -> Change:
    """Write x.safetensors."""
    return lambda project: safetensors.torch.save_file(values, project / "x.safetensors")


def npy(name: str) -> Change:
    """Write an array of features."""
    return lambda project: np.save(project / name, np.ones((2, 2), np.float32))


def params(edit: Callable[[dict[str, Any]], object]) -> Change:
    """Edit params.yaml."""

    def change(project: Path) -> None:
        values = yaml.safe_load((project / "params.yaml").read_text())
        edit(values)
        (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    return change


def swept(over: Any) -> Change:
    """Add a sweep to params.yaml."""
    return params(lambda values: values.update(sweep={"mine": {"over": over}}))


def named(section: str, name: str) -> Change:
    """Give the first teacher, student or run another name."""

    def edit(values: dict[str, Any]) -> None:
        old = next(iter(values[section]))
        values[section] = {name if key == old else key: value for key, value in values[section].items()}

    return params(edit)


def images(*odd: Change) -> Change:
    """Make the dataset a folder of images, `raw/images/a` and `raw/images/b`, with something odd in it."""
    settings = {
        "dataset": {"source": {"family": "image_folder", "path": "raw/images"}},
        "teachers": {"dino": {"family": "timm", "model": "m"}},
        "students": {"cnn": {"family": "compact_cnn"}},
        "runs": {"none": {"student": "cnn"}},
    }
    start = params(lambda values: values.update(settings))
    return both(start, write("raw/images/a/1.png", "one"), write("raw/images/b/2.png", "two"), *odd)


def bomb(name: str) -> Change:
    """Write a PNG of one pixel that says it has 400 million."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return write(name, bytes(content))


def trained(project: Path) -> None:
    """Train the run `none`, for a moment."""
    from pipeline.params import Params
    from pipeline.project import Project
    from pipeline.training import train

    values = Params.load(project / "params.yaml").values
    train("none", Params(values | {"train": values["train"] | {"steps": 2, "seeds": [0, 1]}}), Project(project))


def exported(project: Path) -> None:
    """Put a student of texts into the folder `student`, in the layout of `aft export`."""
    from pipeline.data import Dataset
    from tests.serving.made import made_export

    made_export(project / "student", {"family": "bag_of_words", "width": 4}, Dataset.open(project / "data"))


def exported_for_images(project: Path) -> None:
    """The same for a student of images."""
    from tests.serving.made import made_export
    from tests.students.conftest import write_pictures

    made_export(
        project / "student", {"family": "compact_cnn", "width": 8, "size": 8}, write_pictures(project / "photos")
    )


def at_work(name: str) -> Change:
    """Hold the lock of a stage, as another process does that is at work. Python lets go of it when the test is over."""

    def change(project: Path) -> None:
        path = project / ".aft" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 4711 on there (since 2026-01-31 12:00:00)")
        file.flush()
        HELD.append(file)

    return change


HELD: list[TextIO] = []
"""Locks that are held."""

AT_WORK = "process 4711 on there (since 2026-01-31 12:00:00) runs `aft"

CASES = [
    Case(
        "Commands and settings",
        "a run that params.yaml does not have",
        nothing,
        "train atf",
        "params.yaml: no section `runs.atf` (did you mean `aft`?); `runs` has aft, both, none",
    ),
    Case(
        "Commands and settings",
        "a key that is misspelt",
        nothing,
        "train aft -S train.step=3",
        "params.yaml: train (for aft): unknown key `step` (did you mean `steps`?); allowed are <names>",
    ),
    *(
        Case(
            "Commands and settings",
            f"params.yaml {wrong}",
            write("params.yaml", text),
            "join",
            f"params.yaml: {answer}",
        )
        for wrong, text, answer in (
            ("is empty", "", "expected sections such as `train:`, found NoneType"),
            (
                "has a key twice",
                "train: {steps: 1, steps: 2}\n",
                "not valid YAML: the key `steps` occurs twice <where>",
            ),
            ("is nested too deeply", "a: " + 100 * "[" + 100 * "]", "not valid YAML: nested more than 40 deep <where>"),
            ("has a number of 5,000 digits", "a: " + 5000 * "9", "not valid YAML: Exceeds the limit (<details>"),
            ("has a date that is none", "a: 2026-13-45", "not valid YAML: month must be in <range>"),
            (
                "has aliases of aliases of aliases",
                "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join(9 * [f'*a{i - 1}'])}]\n" for i in range(1, 9)),
                "more than 100,000 values, counting those that aliases repeat; use fewer aliases",
            ),
            (
                "has an alias of itself",
                "a: &a {b: *a}\n",
                "more than 100,000 values, counting those that aliases repeat; use fewer aliases",
            ),
            ("is not UTF-8", b"a: \xff\n", "not UTF-8 from byte 3 on; save it as UTF-8"),
            ("holds a zero byte", b"a: \0\n", "not valid YAML: unacceptable character #x0000: <where>"),
            ("holds half a character", 'a: "\\ud800"\n', r"'\ud800' holds half a character; write the whole one"),
        )
    ),
    Case(
        "Commands and settings",
        "`-S` with a key twice",
        nothing,
        "join -S 'runs.both={student: a, student: b}'",
        "-S runs.both={student: a, student: b}: the value: not valid YAML: the key `student` occurs twice <where>",
    ),
    Case(
        "Files and folders",
        "a folder where params.yaml should be",
        folder("params.yaml"),
        "join",
        "params.yaml: is a folder, and a file is needed there; move it away",
    ),
    Case(
        "Files and folders",
        "a file where the folder of the dataset should be",
        file("data"),
        "join",
        "data: no prepared dataset there; run `aft prepare` first",
    ),
    Case(
        "Files and folders",
        "a file where the folder of the bundles should be",
        file("bundles"),
        "join",
        "bundles: is a file, and a folder is needed there; move it away",
    ),
    Case(
        "Files and folders",
        "a folder where a bundle should be",
        folder("bundles/aft.json"),
        "join",
        "bundles/aft.json: is a folder, and a file is needed there; move it away",
    ),
    *(
        Case(
            "Two commands at once",
            f"another process runs `aft {command}`",
            at_work(command.replace(" ", "-")),
            command,
            f".aft/{command.replace(' ', '-')}.lock: {AT_WORK} {command}` on this project; wait for it, or stop it",
        )
        for command in ("prepare", "probe wise", "assess", "join", "evaluate none", "report")
    ),
    Case(
        "Two commands at once",
        "another process runs `aft train aft`",
        at_work("train-aft"),
        "train aft",
        ".aft/train-aft.lock: process 4711 on there (since 2026-01-31 12:00:00) is training `aft`; wait for it, or "
        "give this run another name",
    ),
    *(
        Case(
            "Damaged files",
            f"a flipped bit in `{name}`",
            flip(name),
            command,
            f"{name}: {answer}",
        )
        for name, command, answer in (
            ("data/content.arrow", "join", "damaged; run `aft prepare` again"),
            ("data/rows.parquet", "join", "damaged; run `aft prepare` again"),
            ("data/manifest.json", "join", "damaged, or changed by hand (<why>); run `aft prepare` again"),
            (
                "probes/wise/pooled/probe.json",
                "join",
                "damaged, or changed by hand (<why>); run `aft probe wise` again",
            ),
            ("probes/wise/pooled/0/probe.safetensors", "assess", "damaged; run `aft probe wise` again"),
            ("probes/wise/pooled/1/linear.npy", "assess", "damaged; run `aft probe wise` again"),
        )
    ),
    Case(
        "Damaged files",
        "a cached output of a probe that is cut short",
        cut("probes/wise/pooled/0/kernel_crossfit.npy"),
        "train aft",
        "probes/wise/pooled/0/kernel_crossfit.npy: damaged; run `aft probe wise` again",
    ),
    Case(
        "Damaged files",
        "a cached output of a probe that is gone",
        gone("probes/wise/pooled/0/linear.npy"),
        "train aft",
        "probes/wise/pooled/0/linear.npy: no such file; run `aft probe wise` again",
    ),
    Case(
        "Damaged files",
        "a number of a record that was edited",
        edit("probes/wise/pooled/probe.json", source="loud"),
        "join",
        "probes/wise/pooled/probe.json: damaged, or changed by hand (its checksum differs); run `aft probe wise` again",
    ),
    Case(
        "Names",
        "a teacher whose name is a command",
        named("teachers", "b; touch pwned #"),
        "join",
        "params.yaml: teachers: 'b; touch pwned #' is not a valid name; use up to 100 letters, digits, _ and -, "
        "the first a letter or digit",
    ),
    Case(
        "Names",
        "a student whose name is an option",
        named("students", "-S"),
        "train none",
        "params.yaml: students: '-S' is not a valid name; use up to 100 letters, digits, _ and -, the first a letter "
        "or digit",
    ),
    Case(
        "Names",
        "a run whose name is a path",
        named("runs", "../../up"),
        "join",
        "params.yaml: runs: '../../up' is not a valid name; use up to 100 letters, digits, _ and -, the first a letter "
        "or digit",
    ),
    *(
        Case(
            "Names",
            f"a run whose name {wrong}",
            named("runs", name),
            "report",
            f"params.yaml: runs: {shown} is not a valid name; use up to 100 letters, digits, _ and -, the first a "
            "letter or digit",
        )
        for wrong, name, shown in (
            ("has a line break", "a\nb", r"'a\nb'"),
            ("has 300 characters", "x" * 300, f"'{'x' * 59}..."),
            ("looks like another", "\uff41ft", r"'\uff41ft'"),
            ("ends a quoted word", "b'; touch pwned; '", "\"b'; touch pwned; '\""),
            ("is an option", "--help", "'--help'"),
            ("is a device on Windows", "CON", "'CON'"),
            ("is empty", "", "''"),
        )
    ),
    Case(
        "Names",
        "`-S` with a name that is a command",
        nothing,
        "join -S 'teachers.`touch pwned`={family: timm, model: m}'",
        "params.yaml: teachers: '`touch pwned`' is not a valid name; use up to 100 letters, digits, _ and -, the first "
        "a letter or digit",
    ),
    Case(
        "Names",
        "a name with a zero byte",
        write("params.yaml", b"runs:\n  a\0b: {student: bag}\n"),
        "join",
        "params.yaml: not valid YAML: unacceptable character #x0000: <where>",
    ),
    Case(
        "Names",
        "a run that is typed as a path",
        nothing,
        "train ../../up",
        "params.yaml: no section `runs.../../up`; `runs` has aft, both, none",
    ),
    Case(
        "Odd files",
        "a pipe called like a table",
        pipe("raw/reviews.csv"),
        "prepare",
        "raw/reviews.csv: is a pipe, and a file is needed there; move it away",
    ),
    Case(
        "Odd files",
        "a link to an endless device called like a table",
        link("raw/reviews.csv", "/dev/zero"),
        "prepare",
        "raw/reviews.csv: is a device, and a file is needed there; move it away",
    ),
    Case(
        "Odd files",
        "a link to itself called like a table",
        link("raw/reviews.csv", "reviews.csv"),
        "prepare",
        "raw/reviews.csv: a link of this path leads to itself; remove it",
    ),
    Case(
        "Odd files",
        "a pipe among images",
        images(pipe("raw/images/a/x.png")),
        "prepare",
        "raw/images/a/x.png: is a pipe, and a file is needed there; move it away",
    ),
    Case(
        "Odd files",
        "a link to an endless device among images",
        images(link("raw/images/a/x.png", "/dev/zero")),
        "prepare",
        "raw/images/a/x.png: is a device, and a file is needed there; move it away",
    ),
    Case(
        "Odd files",
        "an image of a few bytes that claims 400 million pixels",
        images(bomb("raw/images/a/1.png")),
        "prepare",
        "dataset.source: 2 of 2 rows cannot be read, the first is row a/1.png: not an image: Image size "
        "(400000000 pixels) exceeds limit of <details>; correct them, or raise dataset.tolerance <where>",
    ),
    Case(
        "Odd files",
        "a link to a folder around it among images",
        images(link("raw/images/a/x", "..")),
        "prepare",
        "raw/images/a/x: a link to a folder that it is in; remove it",
    ),
    Case(
        "Odd files",
        "folders in folders among images, without end",
        images(write(f"raw/images/a/{'x/' * 200}y.png", "one")),
        "prepare",
        "raw/images: folders nested more than 30 deep, or links that lead to one another; move them away",
    ),
    Case(
        "Odd files",
        "two links among images that lead to one another",
        images(link("raw/images/a/x/z", "../y"), link("raw/images/a/y/z", "../x")),
        "prepare",
        "raw/images: folders nested more than 30 deep, or links that lead to one another; move them away",
    ),
    Case(
        "Odd files",
        "a pipe where params.yaml should be",
        pipe("params.yaml"),
        "join",
        "params.yaml: is a pipe, and a file is needed there; move it away",
    ),
    Case(
        "Odd files",
        "a date in params.yaml that no calendar has",
        write("params.yaml", "a: 2001-99-99\n"),
        "join",
        "params.yaml: not valid YAML: month must be in 1..12",
    ),
    Case(
        "Stores from elsewhere",
        "a record of a store that is a pipe",
        pipe("features/wise.zarr/zarr.json"),
        "features info features/wise.zarr",
        "features/wise.zarr/zarr.json: is a pipe, and a file is needed there; move it away",
    ),
    Case(
        "Stores from elsewhere",
        "a record of a store that never ends",
        link("features/wise.zarr/zarr.json", "/dev/zero"),
        "features verify features/wise.zarr",
        "features/wise.zarr/zarr.json: is a device, and a file is needed there; move it away",
    ),
    Case(
        "Stores from elsewhere",
        "a record of a store with 100,000 brackets",
        write("features/wise.zarr/zarr.json", "[" * 100_000),
        "features info features/wise.zarr",
        "features/wise.zarr/zarr.json: not the metadata of a feature store, or damaged; restore it or extract again",
    ),
    Case(
        "Stores from elsewhere",
        "a store without its record",
        gone("features/wise.zarr/zarr.json"),
        "join",
        "features/wise.zarr: no feature store there; run `aft extract wise` first",
    ),
    Case(
        "Stores from elsewhere",
        "a shard that is cut short",
        cut("features/wise.zarr/pooled/c.0.0"),
        "probe wise",
        "features/wise.zarr: head `pooled`, shard 0 (rows 0-29): pooled/c.0.0 has 730 of 1,460 bytes; "
        "run the extraction again; it writes that shard again",
    ),
    Case(
        "Stores from elsewhere",
        "a flipped bit in a shard",
        flip("features/wise.zarr/pooled/c.0.0"),
        "probe wise",
        "features/wise.zarr/pooled/c.0.0: damaged; delete this file and run the extraction again; it "
        "writes the shard again",
    ),
    *(
        Case("Exports", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "a run that was never trained",
                nothing,
                "export aft --output out",
                "runs/aft/run.json: no such file; run `aft train aft`",
            ),
            (
                "a run that params.yaml does not have",
                nothing,
                "export atf --output out",
                "params.yaml: no section `runs.atf` (did you mean `aft`?); `runs` has aft, both, none",
            ),
            (
                "a seed that it was not trained with",
                trained,
                "export none --seed 7 --output out",
                "runs/none: no seed 7; it was trained with 0, 1",
            ),
            (
                "a format that is misspelt",
                nothing,
                "export none --format natve --output out",
                "--format: no 'natve' in pipeline/exports/ (did you mean `native`?); there are <names>",
            ),
            (
                "an output in a folder that is not there",
                nothing,
                "export none --output no/out",
                "no/out: no folder no; make it first",
            ),
            (
                "an output that is something else",
                nothing,
                "export none --output raw",
                "raw: holds something other than an export; choose another folder, or remove it",
            ),
            (
                "a student that was trained on other rows",
                both(trained, edit_record("runs/none/run.json", splits={"0": "0" * 32, "1": "0" * 32})),
                "export none --output out",
                "runs/none: trained on other rows, splits or labels than these; run `aft train none`",
            ),
        )
    ),
    *(
        Case("Predictions", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "a student that is not there",
                nothing,
                "predict nobody raw/reviews.csv",
                "nobody: neither an export nor a run that was trained; run `aft train RUN`, or "
                "`aft export RUN --output nobody`",
            ),
            (
                "a run that was never trained",
                folder("runs/aft"),
                "predict aft raw/reviews.csv",
                "runs/aft: neither an export nor a run that was trained; run `aft train RUN`, or "
                "`aft export RUN --output runs/aft`",
            ),
            (
                "a seed that a run was not trained with",
                trained,
                "predict none raw/reviews.csv --seed 7",
                "runs/none: no seed 7; it was trained with 0, 1",
            ),
            (
                "a student with a flipped bit",
                both(exported, flip("student/weights.safetensors")),
                "predict student raw/reviews.csv",
                "student/weights.safetensors: damaged; export the run again",
            ),
            (
                "a table that is not there",
                exported,
                "predict student new.csv",
                "new.csv: no such file",
            ),
            (
                "a column that is not there",
                exported,
                "predict student raw/reviews.csv --text-column words",
                "raw/reviews.csv: no column 'words'; there are 'id', 'text', 'mood'",
            ),
            (
                "a folder where texts are asked for",
                exported,
                "predict student raw",
                "raw: is a folder, and this student reads texts; give a table, or - for standard input",
            ),
            (
                "a file that is not an image",
                exported_for_images,
                "predict student raw/reviews.csv",
                "no row could be read; the first is raw/reviews.csv: not an image: none of <formats>",
            ),
            (
                "a folder without images",
                exported_for_images,
                "predict student raw",
                "raw: no images there",
            ),
            (
                "an output in a folder that is not there",
                exported,
                "predict student raw/reviews.csv --output no/out.csv",
                "--output no/out.csv: no folder no; make it first",
            ),
            (
                "an output of no known format",
                exported,
                "predict student raw/reviews.csv --output out.xlsx",
                "--output out.xlsx: write a name that ends in .csv or .parquet, or - for standard output",
            ),
            (
                "an output that is the input",
                exported,
                "predict student raw/reviews.csv --output raw/reviews.csv",
                "--output raw/reviews.csv: is one of the inputs; choose another name",
            ),
        )
    ),
    Case(
        "Imports",
        "a file of no known format",
        write("x.foo", "x"),
        "features import x.foo --store x.zarr",
        "x.foo: unknown format '.foo'; there are .h5, .npy, .parquet, .pt, .safetensors",
    ),
    Case("Imports", "a file that is not there", nothing, "features import x.npy --store x.zarr", "x.npy: no such file"),
    Case(
        "Imports",
        "a pickle",
        write("x.pt", pickle.dumps({"train": print})),
        "features import x.pt --store x.zarr",
        "x.pt: refused: damaged, or more than tensors, which might run code when loaded",
    ),
    Case(
        "Imports",
        "text called .h5",
        write("x.h5", "text"),
        "features import x.h5 --store x.zarr",
        "x.h5: not an HDF5 file, or damaged",
    ),
    Case(
        "Imports",
        "text called .safetensors",
        write("x.safetensors", "text and more text"),
        "features import x.safetensors --store x.zarr",
        "x.safetensors: not a safetensors file, or damaged",
    ),
    Case(
        "Imports",
        "text called .npy",
        write("x.npy", "text"),
        "features import x.npy --store x.zarr",
        "x.npy: not an npy file of numbers, or damaged",
    ),
    Case(
        "Imports",
        "text called .parquet",
        write("x.parquet", "text"),
        "features import x.parquet --store x.zarr",
        "x.parquet: not a Parquet file, or damaged",
    ),
    Case(
        "Imports",
        "HDF5 that leads into another file",
        hdf5(lambda file: file.__setitem__("features", h5py.ExternalLink("other.h5", "features"))),
        "features import x.h5 --store x.zarr",
        "x.h5: `features` is a link, or its values are in another file; write them into this one",
    ),
    Case(
        "Imports",
        "HDF5 with ids that are numbers",
        hdf5(lambda file: file.update(features=np.ones((2, 2)), ids=[1, 2])),
        "features import x.h5 --store x.zarr",
        "x.h5: `ids` are not texts [rows] but int64; save them as UTF-8 strings",
    ),
    Case(
        "Imports",
        "HDF5 with ids that are a group",
        hdf5(lambda file: (file.update(features=np.ones((2, 2))), file.create_group("ids"))),
        "features import x.h5 --store x.zarr",
        "x.h5: `ids` is a group; rename it, or make it an array of a value for each row",
    ),
    Case(
        "Imports",
        "HDF5 with coordinates that are one number",
        hdf5(lambda file: file.update(features=np.ones((2, 2)), coords=5)),
        "features import x.h5 --store x.zarr",
        "x.h5: `coords` is not an array of numbers [rows, 2]; rename it",
    ),
    Case(
        "Imports",
        "HDF5 that says of itself what is no JSON",
        hdf5(lambda file: (file.update(features=np.ones((2, 2))), file.attrs.update(feature_store="{"))),
        "features import x.h5 --store x.zarr",
        "x.h5: what it says of its features is damaged; remove it from the file, or export again",
    ),
    Case(
        "Imports",
        "an array of Python objects",
        lambda project: np.save(project / "x.npy", np.array([[None]], object)),
        "features import x.npy --store x.zarr",
        "x.npy: not an npy file of numbers, or damaged",
    ),
    Case(
        "Imports",
        "ids of an array that are Python objects",
        lambda project: (np.save(project / "x.npy", np.ones((2, 2))), np.savez(project / "x.rows.npz", id_ends=[None])),
        "features import x.npy --store x.zarr",
        "x.rows.npz: damaged; delete it to import x.npy without ids",
    ),
    Case(
        "Imports",
        "a tensor without rows",
        tensors(features=torch.tensor(1.0)),
        "features import x.safetensors --store x.zarr",
        "x.safetensors: no tensor `features` of float16, bfloat16 or float32; there are features",
    ),
    Case(
        "Imports",
        "a tensor of eight bits",
        tensors(features=torch.ones(2, 2).to(torch.float8_e4m3fn)),
        "features import x.safetensors --store x.zarr",
        "x.safetensors: no tensor `features` of float16, bfloat16 or float32; there are features",
    ),
    Case(
        "Imports",
        "`.pt` without tensors",
        lambda project: torch.save({"train": [1.0]}, project / "x.pt"),
        "features import x.pt --store x.zarr",
        "x.pt: expected a dict of float tensors `train` and `test` [rows, ...] of one shape",
    ),
    Case(
        "Imports",
        "another store in its place",
        both(npy("x.npy"), lambda project: shutil.copytree(project / "features/wise.zarr", project / "x.zarr")),
        "features import x.npy --store x.zarr",
        "x.zarr: another store is there; delete it, or import to another place",
    ),
    Case(
        "Imports",
        "another folder in its place",
        npy("x.npy"),
        "features import x.npy --store raw",
        "raw: holds other files, such as reviews.csv; choose a new or empty folder",
    ),
    Case(
        "Imports",
        "a pipe in its place",
        both(npy("x.npy"), pipe("x.zarr")),
        "features import x.npy --store x.zarr",
        "x.zarr: is a file, and a folder is needed there; move it away",
    ),
    Case(
        "Imports",
        "a link in its place into which it would write",
        both(npy("x.npy"), write("x.zarr/.kept", ""), link("x.zarr/locks", "../raw")),
        "features import x.npy --store x.zarr",
        "x.zarr: holds other files, such as locks; choose a new or empty folder",
    ),
    Case(
        "Imports",
        "Parquet of a few bytes that claims very many rows",
        lambda project: pq.write_table(pa.table({"text": pa.nulls(10**6)}), project / "x.parquet"),
        "features import x.parquet --store x.zarr",
        "x.parquet: claims 1,000,000 rows, but has only <some> bytes; write it again",
    ),
    Case(
        "Imports",
        "a pipe",
        pipe("x.npy"),
        "features import x.npy --store x.zarr",
        "x.npy: is a pipe, and a file is needed there; move it away",
    ),
    Case(
        "Sweeps",
        "a grid of nothing",
        swept({"student": []}),
        "sweep mine",
        "params.yaml: sweep.mine.over: student: no values, so there is nothing to train; list some",
    ),
    Case(
        "Sweeps",
        "two points that are the same",
        swept([{"student": "bag"}, {"student": "bag", "train.batch_size": 16}]),
        "sweep mine",
        "params.yaml: sweep.mine.over: two points are the same training: `student=bag` and "
        "`student=bag, train.batch_size=16`; drop one",
    ),
    Case(
        "Sweeps",
        "a student that is not there",
        swept({"student": ["bag", "bgg"]}),
        "sweep mine",
        "params.yaml: sweep.mine: student=bgg: no section `students.bgg` (did you mean `bag`?); `students` has bag",
    ),
    Case(
        "Sweeps",
        "a setting that earlier stages read",
        swept({"student": "bag", "dataset.labelled": [10, 20]}),
        "sweep mine",
        "params.yaml: sweep.mine.over: dataset.labelled: stages before the training read it; queue an "
        "experiment for each value: dvc exp run --queue -S dataset.labelled=VALUE",
    ),
    Case(
        "Sweeps",
        "a condition on a key that it does not have",
        swept({"student": "bag"}),
        "sweep mine --where 'weight>0'",
        "--where weight>0: no `weight`; there are student",
    ),
    Case(
        "Sweeps",
        "a point of a sweep that was not run",
        nothing,
        "compare mine/0 none",
        "sweeps/mine.json: no such file; run `aft sweep mine`",
    ),
    Case(
        "Sweeps",
        "a tracker that is not there",
        params(lambda values: values["machine"].update(track="tensorbord")),
        "train none",
        "machine.track: no 'tensorbord' in pipeline/trackers/ (did you mean `tensorboard`?); there are "
        "dvclive, mlflow, tensorboard, wandb",
    ),
]


def page() -> str:
    """docs/errors.md."""
    lines = [
        "# Errors",
        "",
        "What is wrong, and the line that the command ends with, after `error: `; its exit code is then 2, and what "
        "was written before stays as it was. With `--debug` the traceback comes instead. `<...>` stands for what "
        "differs from one machine to another. Every line is tested; `make docs` writes this page from "
        "`tests/errors.py`.",
    ]
    for about in dict.fromkeys(case.about for case in CASES):
        lines += ["", f"## {about}", "", "| what is wrong | command | answer |", "|---|---|---|"]
        for case in CASES:
            if case.about == about:
                cells = (case.wrong, f"`aft {case.command}`", _code(case.answer))
                lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Text as code; it may hold backticks of its own."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    print(page(), end="")
