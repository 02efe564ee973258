"""What bad input gets: one table of everything that may be wrong, how to make it so, and the line that answers.

`tests/test_errors.py` runs every row as a user types it; `python -m tests.errors > docs/errors.md` writes the page.
A row is added here and nowhere else.
"""

import fcntl
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
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


def trained_by_command(project: Path) -> None:
    """The log of `aft train none`, which says what the run was trained with."""
    from pipeline.changed import settings_of
    from pipeline.params import Params
    from pipeline.project import Project
    from pipeline.records import LogRecord

    settings = settings_of("train", "none", Params.load(project / "params.yaml"))
    path = Project(project).log("train", "none")
    path.parent.mkdir(parents=True, exist_ok=True)
    LogRecord(seconds=1.0, settings=settings).write(path)


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


def table(text: str | bytes, name: str = "reviews.csv", dataset: dict[str, Any] | None = None, **source: Any) -> Change:
    """Write a table, and have params.yaml read it; with other settings of the dataset and its source."""

    def edit(values: dict[str, Any]) -> None:
        values["dataset"] |= {"test": 2, "val": 2, "labelled": None, "splits": 1} | (dataset or {})
        values["dataset"]["source"] |= {"path": f"raw/{name}", "id_column": None} | source

    return both(write(f"raw/{name}", text), params(edit))


def source(family: str, dataset: dict[str, Any] | None = None, **keys: Any) -> Change:
    """Have params.yaml read another source of images, with a student of images."""
    settings = {
        "dataset": {"source": {"family": family, **keys}} | (dataset or {}),
        "students": {"cnn": {"family": "compact_cnn"}},
        "teachers": {"dino": {"family": "timm", "model": "m"}},
        "runs": {"none": {"student": "cnn"}},
    }
    return params(lambda values: values.update(settings))


def array(name: str, values: np.ndarray) -> Change:
    """Write an array of pixels or labels."""
    return lambda project: np.save(project / "raw" / name, values)


def teacher(**section: Any) -> Change:
    """Give the teacher `wise` other settings."""
    return params(lambda values: values["teachers"].update(wise=section))


def many(number: int, labels: Sequence[object], header: str = "text,mood") -> str:
    """A table of different texts; row n has label n of `labels`, again and again."""
    return "\n".join([header, *(f"text {n},{labels[n % len(labels)]}" for n in range(number))]) + "\n"


def tiny_vit(project: Path) -> None:
    """Write random weights of timm's smallest ViT."""
    import timm

    safetensors.torch.save_file(timm.create_model("test_vit").state_dict(), project / "raw/w.safetensors")


def tiny_text(project: Path) -> None:
    """Write a small text encoder with random weights."""
    from tests.conftest import WORDS, write_encoder

    write_encoder(project / "raw/m", WORDS)


def tiny(kind: str, **tokenizer: Any) -> Change:
    """Write a small text model of another architecture with random weights, and a tokenizer of forty words."""

    def change(project: Path) -> None:
        from tests.teachers.zoo import write_model, write_tokenizer

        write_model(project / "raw/m", kind)
        write_tokenizer(project / "raw/m", **tokenizer)

    return change


def backbone(model: str) -> Change:
    """Write the weights of a small image model without its classifier."""

    def change(project: Path) -> None:
        import timm

        state = timm.create_model(model, num_classes=0).state_dict()
        safetensors.torch.save_file(state, project / "raw/w.safetensors")

    return change


def in_dvc(project: Path) -> None:
    """Make the project one whose stages DVC runs."""
    (project / ".dvc").mkdir()
    shutil.copy(Path(__file__).parents[1] / "dvc.yaml", project)


def dual(heads: Sequence[str] = ("pooled", "zero_shot"), **section: Any) -> Change:
    """Have the teacher `wise` be a small CLIP with random weights, which knows a few words."""

    def change(project: Path) -> None:
        from tests.teachers.test_dual_encoder import clip, save

        save(project / "raw/m", *clip())
        teacher(family="dual_encoder", model="raw/m", heads=list(heads), **section)(project)

    return change


def with_classes(*names: str) -> Change:
    """Give the store of `wise` a head with a column for each of these classes."""

    def change(project: Path) -> None:
        from pipeline.data import Dataset
        from pipeline.store import Head, RowIndex, StoreWriter

        data, path = Dataset.open(project / "data"), project / "features" / "wise.zarr"
        shutil.rmtree(path)
        heads = {"zero_shot": Head((len(names),), recipe={"classes": list(names)})}
        rows = RowIndex(data.ids, data.row_digests)
        with StoreWriter.open(path, rows=rows, dataset=data.digest, recipe={}, heads=heads) as writer:
            for shard in writer.missing():
                values = np.random.default_rng(shard.index).normal(size=(len(shard.rows), len(names)))
                writer.write(shard, {"zero_shot": values})

    return change


OWN_TEACHERS = (
    (
        "a function of your own that fails",
        "def make(device, precision):\n    raise KeyError('weights')\n",
        "KeyError: 'weights' (odd_0.py, line 2)",
    ),
    (
        "a teacher of your own without a kind",
        "def make(device, precision):\n    return 7\n",
        'what it makes has the kind None; set `kind` to "text" or "image"',
    ),
    (
        "a teacher of your own without heads",
        "class make:\n    kind = 'text'\n    def __init__(self, **_):\n        pass\n",
        'what it makes has the heads None; set `heads` to the shape of a row of each, such as {"pooled": (384,)}',
    ),
    (
        "a head that your own teacher does not have",
        "class make:\n    kind, heads = 'text', {'cls': (2,)}\n    def __init__(self, **_):\n        pass\n",
        "it has no head `pooled`; its heads are cls",
    ),
    (
        "a teacher of your own that cannot be called",
        "class make:\n    kind, heads = 'text', {'pooled': (2,)}\n    def __init__(self, **_):\n        pass\n",
        "what it makes has no method `__call__(rows)`; see docs/teachers.md",
    ),
    (
        "a teacher of your own that gives another shape",
        "class make:\n    kind, heads = 'text', {'pooled': (2,)}\n    def __init__(self, **_):\n        pass\n"
        "    def __call__(self, texts):\n        return {'pooled': [[0.5] for text in texts]}\n",
        "head `pooled` is float64 (1, 1) for 1 row; it must be of floats (1, 2)",
    ),
)
"""What is wrong with a teacher of a user's own, its code, and the answer."""


def own_teacher(module: str, code: str) -> Change:
    """Have `wise` be made by a function of the project's own."""
    return both(teacher(family="python", factory=f"{module}:make"), write(f"{module}.py", code))


def graph(**settings: Any) -> Change:
    """Have `wise` be a model of images in an ONNX file."""

    def change(project: Path) -> None:
        from tests.teachers.test_onnx import write_images

        write_images(project / "raw/enc.onnx")
        teacher(family="onnx", model="raw/enc.onnx", **settings)(project)

    return change


def without_tokenizer(project: Path) -> None:
    """Remove all files of its tokenizer."""
    for path in (project / "raw/m").glob("*token*"):
        path.unlink()


def teacher_is(value: object) -> Change:
    """Replace the teacher `wise` as a whole."""
    return params(lambda values: values["teachers"].update(wise=value))


def student_is(value: object) -> Change:
    """Replace the student `bag` as a whole."""
    return params(lambda values: values["students"].update(bag=value))


def trains(**keys: object) -> Change:
    """Set keys of `train`."""
    return params(lambda values: values["train"].update(keys))


def run(**keys: object) -> Change:
    """Give the run `none` other settings."""
    return params(lambda values: values["runs"].update(none={"student": "bag", **keys}))


def swept_with(more: dict[str, Any], over: Any) -> Change:
    """Add a sweep to params.yaml, with further keys."""
    return params(lambda values: values.update(sweep={"mine": {"over": over, **more}}))


def images_with(**keys: object) -> Change:
    """A folder of images of two classes, with further keys of its source."""
    return both(images(), params(lambda values: values["dataset"]["source"].update(keys)))


def marks(cell: str | None = None) -> str:
    """A table with the label columns a and b; all cells of b may be the same."""
    rows = (f"text {n},{n % 2},{1 - n % 2 if cell is None else cell}\n" for n in range(20))
    return "text,a,b\n" + "".join(rows)


def tar(*files: tuple[str, bytes]) -> Change:
    """Write a shard."""

    def change(project: Path) -> None:
        with tarfile.open(project / "raw/x.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
            for name, content in files:
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))

    return change


def saved_splits(*names: str) -> Change:
    """Write a dataset as `save_to_disk` does."""

    def change(project: Path) -> None:
        saved = project / "raw/saved"
        rows = pa.table({"image": [b"x"]})
        for name in names:
            (saved / name).mkdir(parents=True)
            with pa.ipc.new_stream(saved / name / "data.arrow", rows.schema) as file:
                file.write_table(rows)
            (saved / name / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
        (saved / "dataset_dict.json").write_text(json.dumps({"splits": list(names)}))

    return change


def name_in_latin_1(project: Path) -> None:
    """Write an image whose name is not UTF-8."""
    with open(os.fsencode(project) + b"/raw/images/a/caf\xe9.png", "wb"):
        pass


def archive_of_arrays(project: Path) -> None:
    """Write an .npz under the name of an .npy."""
    np.savez(project / "raw/x.npz", a=GREY)
    (project / "raw/x.npz").rename(project / "raw/x.npy")


def shard_twice(project: Path) -> None:
    """Put a second archive behind the first."""
    path = project / "raw/x.tar"
    path.write_bytes(2 * path.read_bytes())


def features(values: np.ndarray, ids: Sequence[str] | None = None) -> Change:
    """Have the teacher `wise` read features from a file, with ids of its rows."""

    def change(project: Path) -> None:
        np.save(project / "raw/f.npy", values.astype(np.float32))
        if ids is not None:
            (project / "raw/ids.txt").write_text("".join(f"{name}\n" for name in ids))
        teacher(family="features", path="raw/f.npy", **({} if ids is None else {"ids": "raw/ids.txt"}))(project)

    return change


def compressed(project: Path) -> None:
    """Write a table of a megabyte that becomes 300."""
    table("", name="r.csv.gz")(project)
    (project / "raw/r.csv.gz").write_bytes(gzip.compress(b"0" * (300 << 20), 1))


ALL = [f"r{n:04}" for n in range(240)]
"""The ids of the small project's rows."""

GREY = np.arange(12 * 8 * 8, dtype=np.uint8).reshape(12, 8, 8)
"""Twelve small images."""


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
        "a run of a teacher that params.yaml does not have",
        params(lambda values: values["runs"]["aft"].update(teachers=["minilm"])),
        "check",
        "params.yaml: runs.aft: no section `teachers.minilm`; `teachers` has loud, wise",
    ),
    Case(
        "Commands and settings",
        "a section that DVC needs is left out",
        both(in_dvc, params(lambda values: values.pop("probe"))),
        "check",
        "params.yaml: DVC needs the section probe, if only as `probe: {}`; add that, or use `aft run --direct`",
    ),
    Case(
        "Commands and settings",
        "other settings for a run by DVC",
        in_dvc,
        "run -S train.steps=3",
        "aft run: DVC reads the params.yaml of this folder; change that, use `dvc exp run -S SECTION.KEY=VALUE`, or "
        "pass --direct",
    ),
    Case(
        "Commands and settings",
        "a new project where there is one",
        nothing,
        "init .",
        "params.yaml: already there; choose another folder, or remove it first",
    ),
    Case(
        "Commands and settings",
        "a new project of settings that are not shipped",
        nothing,
        "init new --params cifar",
        "--params cifar: no such file; write <names>, or the path of a params file",
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
        folder("bundles/run/aft.json"),
        "join",
        "bundles/run/aft.json: is a folder, and a file is needed there; move it away",
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
        Case("Tables", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "an empty file",
                table(""),
                "prepare",
                "raw/reviews.csv: empty; its first line must be the names of the columns",
            ),
            (
                "a header and no rows",
                table("text,mood\n"),
                "prepare",
                "dataset.source: it has no rows with these settings",
            ),
            (
                "a column that is not there",
                table("texts,mood\na,b\n"),
                "prepare",
                "raw/reviews.csv: no column 'text'; there are 'texts', 'mood'",
            ),
            (
                "two columns of one name",
                table("text,mood,text\na,b,c\n"),
                "prepare",
                "raw/reviews.csv: 2 columns are called 'text'; rename all but one",
            ),
            (
                "a row with more cells than the header",
                table("text,mood\na,b\nc,d,e\n"),
                "prepare",
                "raw/reviews.csv: line 3 has 3 cells, but the header has 2",
            ),
            (
                "a quote that is never closed",
                table('text,mood\n"a,b\nc,d\n'),
                "prepare",
                "raw/reviews.csv: line 2: <details>; write a quote twice inside a cell in quotes, or set "
                '`quotes` to `none` if quotes belong to the texts, to `backslash` if \\" stands '
                "for one",
            ),
            (
                "quotes behind a backslash",
                table('text,mood\n"a \\"b\\" c",x\nd,y\n'),
                "prepare",
                "raw/reviews.csv: line 2: <details>; write a quote twice inside a cell in quotes, or set "
                '`quotes` to `none` if quotes belong to the texts, to `backslash` if \\" stands '
                "for one",
            ),
            (
                "a suffix of no table",
                table("text,mood\na,b\n", name="reviews.xlsx"),
                "prepare",
                "raw/reviews.xlsx: not a table; its name must end in .csv, .tsv, .json, .jsonl, .ndjson, "
                ".txt, .parquet, .arrow, .feather, of which .csv, .tsv, .json, .jsonl, .ndjson, .txt may "
                "be compressed (.gz, .zst, .xz, .bz2)",
            ),
            (
                "text called .gz",
                table("text,mood\na,b\n", name="reviews.csv.gz"),
                "prepare",
                "raw/reviews.csv.gz: cannot be read: Not a gzipped file <details>",
            ),
            (
                "text called .parquet",
                table("text", name="reviews.parquet"),
                "prepare",
                "raw/reviews.parquet: cannot be read: <details>",
            ),
            (
                "UTF-16 without a mark",
                table("text,mood\na,b\n".encode("utf-16-le")),
                "prepare",
                "raw/reviews.csv: byte 2 is zero, as in UTF-16 without a byte order mark; set "
                "`encoding: utf-16-le`, or save it as utf-8",
            ),
            (
                "an encoding that does not exist",
                table("text,mood\na,b\n", encoding="utf-9"),
                "prepare",
                "raw/reviews.csv: no encoding is called 'utf-9'; write one such as utf-8 or latin-1",
            ),
            (
                "a pattern that no file matches",
                table("", path="raw/*.jsonl"),
                "prepare",
                "raw/*.jsonl: no file matches this pattern; check dataset.source.path",
            ),
            (
                "a line of JSON that is no object",
                table('{"text": "a", "mood": "b"}\n[1]\n', name="r.jsonl"),
                "prepare",
                "raw/r.jsonl: line 2 is not a JSON object",
            ),
            (
                "a line that is no JSON",
                table('{"text": "a", "mood": "b"}\n{"text": \n', name="r.jsonl"),
                "prepare",
                "raw/r.jsonl: line 2 is not valid JSON: <details>",
            ),
            (
                "JSON nested 100,000 deep",
                table("[" * 100_000, name="r.jsonl"),
                "prepare",
                "raw/r.jsonl: line 1 has lists or objects nested too deep; flatten them, or leave the key out",
            ),
            (
                "JSON that is one object",
                table('{"text": "a"}', name="r.json"),
                "prepare",
                "raw/r.json: not a list of objects, such as [{...}, {...}]; for one object per line call it .jsonl",
            ),
            (
                "half a character in a label",
                table('{"text": "a", "mood": "\\ud800"}\n', name="r.jsonl"),
                "prepare",
                "row '40f89e395b66422f' (line 1): its label '\\ud800' holds half a character, as left by "
                "programs that cut texts; correct it",
            ),
            (
                "a list as text",
                table('{"text": ["a"], "mood": "b"}\n', name="r.jsonl"),
                "prepare",
                "raw/r.jsonl: line 1: column 'text' holds a list; a cell must be a text or a number",
            ),
            (
                "an id that occurs twice",
                table("text,mood,id\na,x,1\nb,y,1\n", id_column="id"),
                "prepare",
                "dataset.source: line 2 and line 3 have the same id, 1; ids must be unique",
            ),
            (
                "a row without an id",
                table("text,mood,id\na,x,1\nb,y,\n", id_column="id"),
                "prepare",
                "raw/reviews.csv: line 3 has nothing in column 'id'; every row needs an id",
            ),
            (
                "a split of an unknown name",
                table("text,mood,part\na,x,train\nb,y,holdout\n", split_column="part"),
                "prepare",
                "row 8472c2e34d854f75 (line 3): no split is called 'holdout'; write train, val or test",
            ),
            (
                "a group in two splits",
                table("text,mood,part,who\na,x,train,1\nb,y,test,1\n", split_column="part", group_column="who"),
                "prepare",
                "dataset.source: row 40f89e395b66422f (line 2) and row 8472c2e34d854f75 (line 3) are of "
                "one group, but in different splits; put the group into one",
            ),
            (
                "text that is not UTF-8",
                table(many(20, "ab").encode() + b"caf\xe9,a\n"),
                "prepare",
                "dataset.source: 1 of 21 rows cannot be read, the first is row 10b08566c680d67a (line "
                "22): byte 0xe9 at character 4 is not utf-8; it looks like <encodings>: set "
                "`encoding` to the one that reads right; correct them, or raise "
                "dataset.tolerance (all are listed in data.quarantine.csv)",
            ),
            (
                "a megabyte that becomes 300",
                compressed,
                "prepare",
                "raw/r.csv.gz: <some> bytes that expand to <many> or more; a file may expand to 100 "
                "times its size; save it without compression",
            ),
        )
    ),
    *(
        Case("Labels and tasks", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "labels that are numbers, and no task",
                table(many(20, [1, 2])),
                "prepare",
                "dataset.task: the labels are numbers, such as 1, 2: write `task: regression` to predict "
                "amounts, or `task: classification` to tell them apart as classes",
            ),
            (
                "a label that looks like none",
                table(many(20, ["a", "-1"])),
                "prepare",
                "row bcda0a8474f20b86 (line 3): the label '-1' looks like none; write dataset.no_label: "
                "['-1'] if such rows have no label, or [] if it is a class",
            ),
            (
                "one of several labels that looks like none",
                table(many(20, ["a;b", "a", "?"]), label_separator=";", dataset={"task": "multilabel"}),
                "prepare",
                "row 0dff437947acd09e (line 4): the label '?' looks like none; write dataset.no_label: ['?'] if such "
                "rows have no label, or [] if it is a class",
            ),
            (
                "a text as the label of a regression",
                table(many(20, [1, "two"]), dataset={"task": "regression"}),
                "prepare",
                "row bcda0a8474f20b86 (line 3): label 'two' is not a number; correct it, leave it empty, or set "
                "dataset.task: classification",
            ),
            (
                "the same amount everywhere",
                table(many(20, [3]), dataset={"task": "regression"}),
                "prepare",
                "dataset: all rows have the label 3; there is nothing to learn",
            ),
            (
                "classes of a regression",
                table(many(20, [1, 2]), dataset={"task": "regression", "classes": ["a", "b"]}),
                "prepare",
                "dataset.classes: a regression has no classes; remove it, or set dataset.task: classification",
            ),
            (
                "a unit of classes",
                table(many(20, "ab"), dataset={"unit": "kWh"}),
                "prepare",
                "dataset.unit: 'kWh': classes have no unit; remove it, or set dataset.task: regression",
            ),
            (
                "one class",
                table(many(20, "a")),
                "prepare",
                "dataset: all rows have the label 'a'; there is nothing to tell apart",
            ),
            (
                "a class that no row has",
                table(many(20, "ab"), dataset={"classes": ["a", "b", "c"]}),
                "prepare",
                "dataset.classes: no row has the label 'c'; add some, or remove it",
            ),
            (
                "a label that is not in the list of classes",
                table(many(20, "abc"), dataset={"classes": ["a", "b"]}),
                "prepare",
                "row 0dff437947acd09e (line 4): label 'c' is not in dataset.classes: a, b",
            ),
            (
                "an empty list of classes",
                table(many(20, "ab"), dataset={"classes": []}),
                "prepare",
                "row a6bde4390c5e21eb (line 2): label 'a' is not in dataset.classes: none",
            ),
            (
                "one class instead of a list",
                table(many(20, "ab"), dataset={"classes": "a"}),
                "prepare",
                "params.yaml: dataset.classes: should be a valid list, found 'a'",
            ),
            (
                "labels in one cell that are listed as classes",
                table(many(20, ["a", "b", "a;b"]), dataset={"task": "multilabel", "classes": ["a", "b"]}),
                "prepare",
                "row 0dff437947acd09e (line 4): label 'a;b' is not in dataset.classes: a, b; if it is several, set "
                "dataset.source.label_separator: ';'",
            ),
            (
                "several labels in a cell, and no separator",
                table(many(20, ["a", "b", '"a, b"']), dataset={"task": "multilabel"}),
                "prepare",
                "row 0dff437947acd09e (line 4): label 'a, b' looks like several: set dataset.source.label_separator: "
                "',', or list all labels in dataset.classes if it is one",
            ),
            (
                "labels separated in another way",
                table(many(20, ["a", "b", "a;b"]), dataset={"task": "multilabel"}, label_separator="|"),
                "prepare",
                "row 0dff437947acd09e (line 4): label 'a;b' looks like several: set dataset.source.label_separator: "
                "';', or list all labels in dataset.classes if it is one",
            ),
            (
                "several labels in a cell, and no task",
                table(many(20, ["a", "b", "a|b"])),
                "prepare",
                "row 0dff437947acd09e (line 4): label 'a|b' looks like several: set dataset.source.label_separator: "
                "'|', or dataset.task: classification if it is one class",
            ),
            (
                "amounts as classes",
                table(many(40, [n / 4 for n in range(20)]), dataset={"task": "classification"}),
                "prepare",
                "dataset.test: class '0' has 2 rows to choose from and needs 3 to be in train, val and test; add rows, "
                "or leave these out; or set dataset.task: regression, if these 20 numbers are amounts",
            ),
            (
                "a class named twice",
                table(many(20, "ab"), dataset={"classes": ["a", "a"]}),
                "prepare",
                "dataset.classes: a name occurs twice",
            ),
            (
                "a task that does not exist",
                table(many(20, "ab"), dataset={"task": "ranking"}),
                "prepare",
                "dataset.task: no 'ranking' in pipeline/tasks/; there are classification, multilabel, regression",
            ),
            (
                "a class with one row",
                table(many(20, "ab") + "rare text,c\nrare words,c\n"),
                "prepare",
                "dataset.test: class 'c' has 2 rows to choose from and needs 3 to be in train, val and "
                "test; add rows, or leave these out",
            ),
            (
                "more test rows than there are",
                table(many(20, "ab"), dataset={"test": 100}),
                "prepare",
                "dataset.test: 100 of 20 rows to choose from is 100; for every class to be in train, val "
                "and test it must be from 2 to 16",
            ),
            (
                "a limit below the number of classes",
                table(many(21, "abc"), dataset={"limit": 2}),
                "prepare",
                "dataset.limit: 2 rows for every class in every part are too few; raise it to 3 or more",
            ),
            (
                "a label column that is neither 0 nor 1",
                table("text,x,y\na,1,0\nb,0,2\n", dataset={"task": "multilabel"}, label_column=["x", "y"]),
                "prepare",
                "raw/reviews.csv: line 3: column 'y' has '2'; label columns hold 0 or 1, or are all empty",
            ),
            (
                "a method for other tasks",
                both(
                    table(many(20, [1.5, 2.5]), dataset={"task": "regression"}),
                    params(
                        lambda values: values["runs"]["both"].update(methods={"logit_standardisation": {"weight": 1.0}})
                    ),
                ),
                "prepare",
                "params.yaml: runs.both.methods: `logit_standardisation` is for classification, and the "
                "task is regression; drop it, or take another method, such as logit_kd",
            ),
            (
                "weights of classes that a regression does not have",
                both(
                    table(many(20, [1.5, 2]), dataset={"task": "regression"}),
                    params(
                        lambda values: (values["runs"].pop("both"), values["train"].update(class_weights="balanced"))
                    ),
                ),
                "prepare",
                "params.yaml: train (for none): class_weights: regression has no classes to weight; remove it",
            ),
        )
    ),
    *(
        Case("Images and other sources", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "a folder of images that is not there",
                source("image_folder", path="raw/photos"),
                "prepare",
                "raw/photos: no such folder; check dataset.source.path",
            ),
            (
                "images without folders of classes",
                both(source("image_folder", path="raw/photos"), write("raw/photos/1.png", "x")),
                "prepare",
                "raw/photos/1.png: an image outside the folders of the classes; put it into one",
            ),
            (
                "a file that is no image",
                images(write("raw/images/a/3.png", "three")),
                "prepare",
                "dataset.source: 3 of 3 rows cannot be read, the first is row a/1.png: not an image: "
                "none of <formats>; correct them, or raise dataset.tolerance (all are listed in "
                "data.quarantine.csv)",
            ),
            (
                "splits among classes",
                images(write("raw/images/train/a/1.png", "x"), write("raw/images/test/a/1.png", "x")),
                "prepare",
                "raw/images: 'test', 'train' look like splits, and 'a', 'b' not; write "
                "dataset.source.splits, such as {a: train, b: train, test: test, train: train}, or {} if "
                "all folders are classes",
            ),
            (
                "a column of paths that are not there",
                both(
                    source("image_table", path="raw/list.csv", label_column="mood"),
                    write("raw/list.csv", "image,mood\nno.png,a\n"),
                ),
                "prepare",
                "dataset.source: 1 of 1 row cannot be read, the first is row no.png (line 2): cannot be "
                "read: No such file or directory; correct them, or raise dataset.tolerance (all are "
                "listed in data.quarantine.csv)",
            ),
            (
                "pixels that are floats",
                both(source("arrays", path="raw/x.npy"), array("x.npy", GREY / 255)),
                "prepare",
                "raw/x.npy: pixels are uint8, or uint16 for grey, not float64; scale them to 0-255, and "
                "save them as uint8",
            ),
            (
                "pixels of an odd shape",
                both(source("arrays", path="raw/x.npy"), array("x.npy", GREY[0])),
                "prepare",
                "raw/x.npy: images are [n, h, w], [n, h, w, 3] or [n, 3, h, w], not [8, 8]",
            ),
            (
                "fewer labels than images",
                both(
                    source("arrays", path="raw/x.npy", labels="raw/y.npy"),
                    array("x.npy", GREY),
                    array("y.npy", np.arange(3)),
                ),
                "prepare",
                "raw/x.npy: 12 images and labels of shape [3]; give each one label",
            ),
            (
                "a folder of `save_to_disk` at a URL",
                source("hugging_face", path="s3://bucket/saved", image_column="image"),
                "prepare",
                "s3://bucket/saved: a URL, and a path of this machine is needed there",
            ),
            (
                "a Zarr at a URL",
                source("arrays", path="s3://bucket/x.zarr"),
                "prepare",
                "s3://bucket/x.zarr: a URL, and a path of this machine is needed there",
            ),
            (
                "an array in a format that is not known",
                source("arrays", path="raw/x.mat"),
                "prepare",
                "raw/x.mat: not an array of pixels; its name must end in .npy, .h5, .hdf5, .zarr",
            ),
            (
                "a shard that is no archive",
                both(source("webdataset", path="raw/x.tar"), write("raw/x.tar", "text")),
                "prepare",
                "raw/x.tar: cannot be read: damaged, or cut off: <details>",
            ),
            (
                "a dataset of Hugging Face with two columns of content",
                source("hugging_face", path="raw/saved", image_column="a", text_column="b"),
                "prepare",
                "dataset.source: write one of text_column, template and image_column",
            ),
            (
                "a folder that `save_to_disk` did not write",
                source("hugging_face", path="raw", image_column="image"),
                "prepare",
                "raw: not a folder of `save_to_disk`: no state.json; see dataset.source",
            ),
            (
                "a function that is not there",
                source("python", factory="nowhere:rows", kind="image"),
                "prepare",
                "dataset.source.factory: no module 'nowhere'; put it into the project's folder, or install its package",
            ),
            (
                "a factory that is no name",
                source("python", factory="rows", kind="image"),
                "prepare",
                "dataset.source.factory: 'rows': write it as package.module:function",
            ),
            (
                "a family of sources that does not exist",
                source("image_foldr", path="raw"),
                "prepare",
                "params.yaml: dataset.source.family: no 'image_foldr' in pipeline/datasets/ (did you "
                "mean `image_folder`?); there are <names>",
            ),
        )
    ),
    *(
        Case("Teachers", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "a folder of a model that is not there",
                teacher(family="transformers", model="./nothing"),
                "extract wise",
                "./nothing: no such folder",
            ),
            (
                "a folder without a model",
                teacher(family="transformers", model="./raw"),
                "extract wise",
                "raw: no model here: config.json is missing",
            ),
            (
                "the largest of logits that are not kept",
                teacher(family="timm", model="m", top=50),
                "check",
                "params.yaml: teachers.wise: top keeps the largest logits, and heads has no `logits`; add it, or drop "
                "top",
            ),
            (
                "so many of the largest logits that nothing is saved",
                both(
                    teacher(family="timm", model="test_vit", weights="raw/w.safetensors", heads=["logits"], top=400),
                    tiny_vit,
                ),
                "extract wise",
                "test_vit: top: 400 of 1,000 logits takes no less room than all; drop it",
            ),
            (
                "a classifier's outputs of weights without a classifier",
                both(
                    teacher(family="timm", model="test_vit", weights="raw/w.safetensors", heads=["logits"]),
                    backbone("test_vit"),
                ),
                "extract wise",
                "test_vit: its weights have no classifier, so it has no head `logits`",
            ),
            (
                "the class token of a model that has none",
                both(
                    teacher(family="timm", model="test_resnet", weights="raw/w.safetensors", heads=["cls"]),
                    backbone("test_resnet"),
                ),
                "extract wise",
                "test_resnet: it has no class token, so it has no head `cls`",
            ),
            (
                "the first token of a decoder",
                both(teacher(family="transformers", model="raw/m", pooling="cls"), tiny("llama")),
                "extract wise",
                "raw/m: `cls` takes the first token, which in this model (a decoder) does not see the text; set "
                "`pooling: last` or `pooling: mean`",
            ),
            (
                "a model of texts of any length, without `max_length`",
                both(teacher(family="transformers", model="raw/m"), tiny("xlnet")),
                "extract wise",
                "raw/m: the model has no maximum length; set `max_length`",
            ),
            (
                "a model that needs its own Python code",
                both(
                    teacher(family="transformers", model="raw/m"),
                    tiny_text,
                    edit("raw/m/config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"}),
                ),
                "extract wise",
                "raw/m: it needs its own Python code; read it, then set `trust_remote_code: true`",
            ),
            (
                "a sentence-transformers folder of another kind",
                both(
                    teacher(family="transformers", model="raw/m"),
                    tiny_text,
                    write(
                        "raw/m/modules.json",
                        json.dumps(
                            [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CLIPModel"}]
                        ),
                    ),
                ),
                "extract wise",
                "raw/m: modules.json: <modules>: only models that start with Transformer and Pooling are supported; "
                "choose another model",
            ),
            (
                "a model of images and texts as a teacher of texts",
                both(dual(), teacher(family="transformers", model="raw/m")),
                "extract wise",
                "raw/m: CLIPModel has a tower of images and one of texts; `family: dual_encoder` with `tower: text` "
                "reads texts with it",
            ),
            (
                "a model that is neither here nor, without the hub, anywhere",
                teacher(family="transformers", model="nobody/nothing"),
                "extract wise",
                "nobody/nothing: no such folder here, and it cannot be fetched from the hub: <why>",
            ),
            (
                "an encoder of texts as a dual encoder",
                both(teacher(family="dual_encoder", model="raw/m"), tiny_text),
                "extract wise",
                "raw/m: BertModel does not have a tower of images, one of texts and a scale of logits, as CLIP and "
                "SigLIP have; `family: transformers_vision` is for models of one kind of rows",
            ),
            (
                "a dual encoder without its image processor",
                both(dual(), gone("raw/m/preprocessor_config.json")),
                "extract wise",
                "raw/m: cannot load its image processor: <what is missing>",
            ),
            (
                "zero-shot outputs of the tower of texts",
                teacher(family="dual_encoder", model="m", tower="text", heads=["zero_shot"]),
                "check",
                "params.yaml: teachers.wise: heads: zero_shot compares images with the names of classes; set tower: "
                "image",
            ),
            (
                "settings of zero-shot outputs that are not kept",
                teacher(family="dual_encoder", model="m", zero_shot={"template": "a {}"}),
                "check",
                "params.yaml: teachers.wise: zero_shot does nothing unless `heads` has it: write heads: [pooled, "
                "zero_shot]",
            ),
            (
                "a template without a place for the name",
                teacher(family="dual_encoder", model="m", heads=["zero_shot"], zero_shot={"template": "a photo"}),
                "check",
                "params.yaml: teachers.wise.zero_shot.template: should hold {} once, where the name of the class goes, "
                "as in 'a photo of a {}', found 'a photo'",
            ),
            (
                "words for a class that the dataset does not have",
                dual(zero_shot={"names": {"happy": "cat"}}),
                "extract wise",
                "raw/m: zero_shot.names: the dataset has no class 'happy'",
            ),
            (
                "the same words for two classes",
                dual(zero_shot={"names": {"bad": "cat", "good": "cat", "plain": "dog"}}),
                "extract wise",
                "raw/m: zero_shot.names: two classes are named 'cat'; give them different names",
            ),
            (
                "a name of a class that is longer than the texts of the model",
                dual(zero_shot={"template": "a photo of {}" + " to a fox" * 4}),
                "extract wise",
                "raw/m: zero_shot: <the text> is longer than the 16 tokens that the model reads of a text",
            ),
            (
                "zero-shot outputs of other classes than the dataset's",
                with_classes("one", "two", "three"),
                "probe wise",
                "features/wise.zarr: head `zero_shot` is of other classes, or in another order, than the dataset's; "
                "run `aft extract wise`",
            ),
            (
                "a teacher of images on texts",
                both(teacher(family="timm", model="test_vit", weights="raw/w.safetensors"), tiny_vit),
                "extract wise",
                "extract wise: this teacher reads image rows, and the dataset data holds text",
            ),
            (
                "a model of timm that does not exist",
                teacher(family="timm", model="vit_smal_patch16_224"),
                "extract wise",
                "timm has no model 'vit_smal_patch16_224'; the nearest names are <names>",
            ),
            (
                "a tag of weights that does not exist",
                teacher(family="timm", model="vit_small_patch16_224.augreg_in99"),
                "extract wise",
                "timm has no weights 'vit_small_patch16_224.augreg_in99'; for vit_small_patch16_224 there are <names>",
            ),
            (
                "weights that are not there",
                teacher(family="timm", model="test_vit", weights="raw/w.safetensors"),
                "extract wise",
                "raw/w.safetensors: no such file of weights",
            ),
            (
                "weights that are text",
                both(
                    teacher(family="timm", model="test_vit", weights="raw/w.safetensors"),
                    write("raw/w.safetensors", "text and text"),
                ),
                "extract wise",
                "raw/w.safetensors: these weights cannot be read (<details>); save them again, as .safetensors",
            ),
            (
                "weights that are a pickle",
                both(
                    teacher(family="timm", model="test_vit", weights="raw/w.pth"),
                    write("raw/w.pth", pickle.dumps({"w": print})),
                ),
                "extract wise",
                "raw/w.pth: damaged, or more than tensors, which might run code when loaded; save the "
                "model's state_dict",
            ),
            (
                "a size that the model cannot take",
                both(teacher(family="timm", model="test_vit", weights="raw/w.safetensors", size=33), tiny_vit),
                "extract wise",
                "test_vit: images of 33 x 33 do not fit it (<details>); set another `size`, such as a "
                "multiple of 32, or leave it out for the model's own 160",
            ),
            (
                "a layer that the model does not have",
                both(
                    teacher(family="timm", model="test_vit", weights="raw/w.safetensors", heads=["layer:99"]), tiny_vit
                ),
                "extract wise",
                "test_vit: it has layers 1 to 6, so it has no head `layer:99`",
            ),
            (
                "`max_length` above the model's positions",
                both(teacher(family="transformers", model="raw/m", max_length=500), tiny_text),
                "extract wise",
                "raw/m: max_length: 500 is more than the model's 48 positions; set that or less",
            ),
            (
                "`max_length` that leaves nothing of a text",
                both(teacher(family="transformers", model="raw/m", max_length=2), tiny_text),
                "extract wise",
                "raw/m: max_length: 2 leaves nothing of a text beside its 2 special tokens; set more than 2",
            ),
            (
                "a prompt that the model does not have",
                both(teacher(family="transformers", model="raw/m", prompt="query"), tiny_text),
                "extract wise",
                "raw/m: no prompt named 'query'; there are none; a prompt of your own is written in "
                "full, such as `prompt: 'query: '`",
            ),
            (
                "a model without its tokenizer",
                both(teacher(family="transformers", model="raw/m"), tiny_text, without_tokenizer),
                "extract wise",
                "raw/m: its tokenizer knows 0 words besides special tokens and does not tell texts "
                "apart; save the model's own tokenizer next to its weights",
            ),
            (
                "a model whose weights are cut short",
                both(teacher(family="transformers", model="raw/m"), tiny_text, cut("raw/m/model.safetensors")),
                "extract wise",
                "raw/m: cannot load it: <details>",
            ),
            (
                "a package that is not installed",
                teacher(family="transformers", model="package:minillm/model"),
                "extract wise",
                "package:minillm/model: the package minillm is not installed; check the name, or install "
                "what contains it",
            ),
            (
                "a function of your own that is not there",
                teacher(family="python", factory="my_teachers:letters"),
                "extract wise",
                "factory: no module 'my_teachers'; put it into the project's folder, or install its package",
            ),
            (
                "a function of your own without a module",
                teacher(family="python", factory="letters"),
                "extract wise",
                "factory: 'letters': write it as package.module:function",
            ),
            (
                "a function of your own that does not parse",
                both(teacher(family="python", factory="odd_one:f"), write("odd_one.py", "def f(:\n")),
                "extract wise",
                "factory: odd_one:f: SyntaxError: invalid syntax (odd_one.py, line 1)",
            ),
            *(
                (wrong, own_teacher(f"odd_{number}", code), "extract wise", f"odd_{number}:make: {answer}")
                for number, (wrong, code, answer) in enumerate(OWN_TEACHERS)
            ),
            (
                "a model of torchvision that does not exist",
                teacher(family="torchvision", model="resnet51"),
                "extract wise",
                "torchvision has no classifier 'resnet51'; the nearest names are <names>",
            ),
            (
                "weights of torchvision that do not exist",
                teacher(family="torchvision", model="resnet18", weights="IMAGENET1K_V9"),
                "extract wise",
                "ResNet18_Weights has no 'IMAGENET1K_V9'; there are IMAGENET1K_V1, DEFAULT, or name a file",
            ),
            (
                "arguments for weights of torchvision by name",
                teacher(family="torchvision", model="resnet18", arguments={"width_per_group": 32}),
                "extract wise",
                "resnet18: `arguments` are for weights in a file, and IMAGENET1K_V1 has its own; remove them",
            ),
            (
                "weights of another model than torchvision's",
                both(teacher(family="torchvision", model="squeezenet1_1", weights="raw/w.safetensors"), tiny_vit),
                "extract wise",
                "raw/w.safetensors: not weights of squeezenet1_1: <details>",
            ),
            (
                "GoogLeNet without its inputs",
                both(teacher(family="torchvision", model="googlenet", weights="raw/w.safetensors"), tiny_vit),
                "extract wise",
                "raw/w.safetensors: say how googlenet was trained: `arguments: {transform_input: true}` for the "
                "weights of torchvision and what was tuned from them, else false",
            ),
            (
                "an ONNX file that is not there",
                teacher(family="onnx", model="raw/enc.onnx"),
                "extract wise",
                "raw/enc.onnx: no such file",
            ),
            (
                "an ONNX file that is text",
                both(teacher(family="onnx", model="raw/enc.onnx"), write("raw/enc.onnx", "text and text")),
                "extract wise",
                "raw/enc.onnx: damaged, or not an ONNX file; export it again",
            ),
            (
                "an ONNX file with several outputs",
                graph(),
                "extract wise",
                "raw/enc.onnx: it has several outputs, features [n, 16], map [n, 16, 7, 7]; name that of head "
                "`pooled`, such as `outputs: {pooled: features}`",
            ),
            (
                "an output that the ONNX file does not have",
                graph(outputs={"pooled": "states"}),
                "extract wise",
                "raw/enc.onnx: it has no output 'states'; its outputs are features, map",
            ),
            (
                "images for an ONNX file whose preparation is not stated",
                graph(outputs={"pooled": "features"}),
                "extract wise",
                "raw/enc.onnx: state how its images are prepared: `mean` and `std` of 3 channels, after `scale`, such "
                "as mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]",
            ),
            (
                "an ONNX file with a fixed size of images",
                graph(outputs={"pooled": "features"}, mean=[0, 0, 0], std=[1, 1, 1], size=64),
                "extract wise",
                "raw/enc.onnx: set `size` to the 32 that it takes",
            ),
            (
                "features without ids",
                features(np.ones((240, 4))),
                "extract wise",
                "raw/f.npy: no ids of rows there; write them to a file, one id per line, and set `ids` to it",
            ),
            (
                "features with too few ids",
                features(np.ones((240, 4)), "ab"),
                "extract wise",
                "raw/ids.txt: 2 ids, and raw/f.npy has 240 rows; make them fit",
            ),
            (
                "features of other rows",
                features(np.ones((2, 4)), "ab"),
                "extract wise",
                "extract wise: 240 of 240 rows have no features: r0000, r0001, r0002, r0003, r0004 ...; "
                "raw/f.npy has no features for it; its ids look like 'a', 'b'",
            ),
            (
                "features that are all the same",
                features(np.ones((240, 4)), ALL),
                "extract wise",
                "features/wise.zarr: head `pooled`: 30 of 30 rows that differ have the same features, so "
                "this teacher does not distinguish them; check its weights, its tokenizer and its pooling",
            ),
            (
                "features that are not finite",
                features(np.full((240, 4), np.nan), ALL),
                "extract wise",
                "features/wise.zarr: head `pooled`, shard 0, 30 rows (r0000, r0001, r0002 and 27 more): "
                "the model gave NaN or infinity; try precision float32, or remove the rows",
            ),
            (
                "views for another kind of rows",
                teacher(family="transformers", model="m", views={"family": "crops", "count": 2}),
                "check",
                "params.yaml: teachers.wise.views: `crops` changes images, and the dataset holds texts; take <names>",
            ),
            (
                "no views at all",
                teacher(family="transformers", model="m", views={"family": "ngrams", "count": 0}),
                "check",
                "params.yaml: teachers.wise.views.count: 0 views; write 1 or more, or drop `views` to keep clean rows "
                "alone",
            ),
            (
                "more views than a store keeps",
                teacher(family="transformers", model="m", views={"family": "ngrams", "count": 5_000_000_000}),
                "check",
                "params.yaml: teachers.wise.views.count: 5,000,000,000 views, and a store keeps 1,000 of a row at "
                "most; write fewer, and `teacher: live` in runs that want views without end",
            ),
            (
                "more views than the teachers have",
                both(
                    teacher(family="transformers", model="m", views={"family": "ngrams", "count": 2}),
                    params(lambda values: values["runs"]["aft"].update(teachers=["wise@ngrams"], train={"views": 3})),
                ),
                "check",
                "params.yaml: train (for aft): views: 3, and the run's teachers have 2 of each row; write 2 or fewer, "
                "or a larger `count` in their `views`",
            ),
            (
                "views of a teacher that has none",
                params(lambda values: values["runs"]["aft"].update(teachers=["wise@ngrams"])),
                "check",
                "params.yaml: runs.aft.teachers: `wise@ngrams`: teachers.wise has no views; write `views: "
                "{family: ngrams, count: 4}` there, and run `aft extract wise` and `aft probe wise`",
            ),
            (
                "a head that the run reads and the teacher does not keep",
                params(lambda values: values["runs"]["aft"].update(teachers=["wise/cls"])),
                "check",
                "params.yaml: runs.aft reads head `cls` of `wise`, and teachers.wise.heads has pooled; "
                "add it there, or write another head, such as wise/pooled",
            ),
            (
                "a dry run before the data is prepared",
                file("data"),
                "extract wise --dry-run",
                "data: no prepared dataset there; run `aft prepare` first",
            ),
            (
                "a plan for rows that are no number",
                nothing,
                "plan --teacher wise --rows many",
                "--rows many: write a whole number of rows, such as 1000000 or 1e9",
            ),
            (
                "a plan for half a row",
                nothing,
                "plan --teacher wise --rows 1.5",
                "--rows 1.5: write a whole number of rows, such as 1000000 or 1e9",
            ),
            (
                "a plan with a teacher that is not there",
                nothing,
                "plan --teacher none --rows 1e9",
                "params.yaml: no section `teachers.none`; `teachers` has loud, wise",
            ),
            (
                "a plan with neither features nor data to measure",
                file("data"),
                "plan --teacher wise --rows 1e9",
                "data: no prepared dataset there; run `aft prepare` first",
            ),
            (
                "a device that is not there",
                nothing,
                "extract wise -S machine.device=cuda:7",
                "machine.device: cuda:7, but torch finds no GPU here; set it to cpu or auto",
            ),
            (
                "a device of an unknown name",
                nothing,
                "extract wise -S machine.device=gpu",
                "params.yaml: machine.device: should be auto, cpu, cuda, cuda:N (a number from 0) or mps, found 'gpu'",
            ),
        )
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
                "an export to a URL",
                nothing,
                "export none --output s3://bucket/out",
                "s3://bucket/out: a URL, and a path of this machine is needed there",
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
        Case("Several machines", wrong, nothing, command, answer)
        for wrong, command, answer in (
            (
                "an address where no cluster is",
                "train none -S machine.engine=ray -S machine.address=127.0.0.1:1",
                "machine.address: 127.0.0.1:1: no Ray cluster answers there within 60 s; see `ray status` on this "
                "machine, and the address that `ray start` printed",
            ),
            (
                "the address of a client",
                "train none -S machine.engine=ray -S machine.address=ray://head:10001",
                "machine.address: ray://head:10001: write HOST:PORT, and run this on a machine of the cluster, as "
                "`ray job submit` does",
            ),
            ("an address without an engine for it", "extract wise --address auto", "--address: only with --engine ray"),
            ("workers without an engine for them", "extract wise --workers 2", "--workers: only with --engine ray"),
            (
                "a rank that there is not",
                "extract wise --rank 2 --world 2",
                "--rank 2: ranks are numbered from 0, so of --world 2 the last is 1",
            ),
        )
    ),
    *(
        Case("Sweeps", wrong, swept(over), command, answer)
        for wrong, over, command, answer in (
            (
                "a point of a sweep to export",
                {"student": "bag"},
                "export mine/0 --output out",
                "mine/0: a point of a sweep; add it to `runs`, under a name of its own, run `aft train NAME`, which "
                "finds its trainings, and export that",
            ),
            (
                "a sweep to watch that params.yaml does not have",
                {"student": "bag"},
                "sweep mini --watch",
                "params.yaml: no section `sweep.mini` (did you mean `mine`?); `sweep` has mine",
            ),
            (
                "unused trials beside a sweep over numbers of labels that was not run",
                {"student": "bag", "methods": "kd", "teachers": "wise", "weight": 1.0, "dataset.labelled": 12},
                "trials",
                "params.yaml: sweep.mine: student=bag, methods=kd, teachers=wise, weight=1, dataset.labelled=12: "
                ".aft/labels/12/wise: no probes of 12 labels with these settings and features, so the sweep's "
                "trainings are not known; run the sweep, or remove it from the file",
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
                both(exported_for_images, write("raw/notes.png", "x")),
                "predict student raw/notes.png",
                "no row could be read; the first is raw/notes.png: not an image: none of <formats>",
            ),
            (
                "a table without a column of images",
                exported_for_images,
                "predict student raw/reviews.csv",
                "raw/reviews.csv: no column 'image'; there are 'id', 'text', 'mood'",
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
                "a URL to predict",
                exported,
                "predict student https://example.org/reviews.csv",
                "https://example.org/reviews.csv: a URL, and a path is needed there, or a URL with s3://, gs:// or "
                "az://; download it first",
            ),
            (
                "predictions to a URL",
                exported,
                "predict student raw/reviews.csv --output s3://bucket/out.csv",
                "s3://bucket/out.csv: a URL, and a path of this machine is needed there",
            ),
            (
                "an export at a URL",
                exported,
                "predict s3://bucket/student raw/reviews.csv",
                "s3://bucket/student: a URL, and a path of this machine is needed there",
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
    *(
        Case(
            "Object storage", wrong, params(lambda values, place=place: values.update(features=place)), "check", answer
        )
        for wrong, place, answer in (
            (
                "`features` in params.yaml is a folder",
                "features",
                "params.yaml: features: write s3://BUCKET/PREFIX, or a URL with gs:// or az://, not 'features'",
            ),
            (
                "`features` in params.yaml has credentials in it",
                "s3://key:secret@bucket/features",
                "params.yaml: features: a URL with credentials would end up in logs; set them in the environment",
            ),
        )
    ),
    *(
        Case("Object storage", wrong, nothing, command, answer)
        for wrong, command, answer in (
            ("a URL without a prefix", "features info s3://bucket", "s3://bucket: write s3://BUCKET/PREFIX"),
            (
                "a URL with credentials in it",
                "features info s3://key:secret@bucket/x.zarr",
                "s3://bucket: a URL with credentials would end up in logs; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (which needs the package boto3)",
            ),
            (
                "features to import from a URL",
                "features import s3://bucket/x.npy --store features/x.zarr",
                "s3://bucket/x.npy: a URL, and a path of this machine is needed there",
            ),
            (
                "features to export to a URL",
                "features export features/wise.zarr s3://bucket/x.parquet",
                "s3://bucket/x.parquet: a URL, and a path of this machine is needed there",
            ),
            (
                "a params file at a URL",
                "check --params https://example.org/params.yaml",
                "https://example.org/params.yaml: a URL, and a path of this machine is needed there",
            ),
            (
                "a copy over another store",
                "features copy features/wise.zarr features/loud.zarr",
                "features/loud.zarr: another store is there; delete it, or copy to another place",
            ),
        )
    ),
    *(
        Case(
            "Object storage",
            wrong,
            params(lambda values, path=path: values["dataset"]["source"].update(path=path)),
            "prepare",
            answer,
        )
        for wrong, path, answer in (
            (
                "a table at a URL that is not of object storage",
                "https://example.org/reviews.csv",
                "https://example.org/reviews.csv: a URL, and a path is needed there, or a URL with s3://, gs:// or "
                "az://; download it first",
            ),
            (
                "a table at a URL with credentials in it",
                "s3://key:secret@bucket/reviews.csv",
                "s3://bucket: a URL with credentials would end up in logs; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (which needs the package boto3)",
            ),
            ("a table at a URL without a bucket", "s3:///reviews.csv", "s3:///reviews.csv: write s3://BUCKET/PREFIX"),
        )
    ),
    Case(
        "Object storage",
        "features of a teacher at a URL",
        teacher_is({"family": "features", "path": "s3://bucket/x.npy"}),
        "extract wise",
        "s3://bucket/x.npy: a URL, and a path of this machine is needed there",
    ),
    Case(
        "Object storage",
        "a file that stands for a store, and is damaged",
        write("features/wise.zarr/remote.json", "{}"),
        "features info features/wise.zarr",
        "features/wise.zarr/remote.json: damaged or changed by hand; delete it and run the extraction again",
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
        "HDF5 whose description is not JSON",
        hdf5(lambda file: (file.update(features=np.ones((2, 2))), file.attrs.update(feature_store="{"))),
        "features import x.h5 --store x.zarr",
        "x.h5: the description of its features is damaged; remove it from the file, or export again",
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
        swept({"student": "bag", "dataset.limit": [10, 20]}),
        "sweep mine",
        "params.yaml: sweep.mine.over: dataset.limit: stages before the training read it; queue an "
        "experiment for each value: dvc exp run --queue -S dataset.limit=VALUE",
    ),
    Case(
        "Sweeps",
        "no number of labels",
        swept({"student": "bag", "dataset.labelled": [10, 0]}),
        "sweep mine",
        "params.yaml: sweep.mine.over: dataset.labelled: 0; write numbers of rows from 1, or shares between 0 and 1",
    ),
    Case(
        "Sweeps",
        "more labels than there are",
        swept({"student": "bag", "dataset.labelled": [10, 5000]}),
        "sweep mine",
        "params.yaml: sweep.mine: student=bag, dataset.labelled=5000: dataset.labelled: 5000 of 126 rows to "
        "choose from is 5,000; for every class to be in train, val and test it must be from 3 to 126",
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
    *(
        Case("params.yaml", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "a section that is no mapping",
                params(lambda values: values.update(train=[1])),
                "check",
                "params.yaml: `train` must be a mapping of settings, found [1]",
            ),
            (
                "a misspelt section",
                params(lambda values: values.update(trian={})),
                "check",
                "params.yaml: unknown section `trian` (did you mean `train`?); allowed are dataset, extract, "
                "teachers, probe, assess, students, train, machine, runs, sweep, features",
            ),
            (
                "no params.yaml",
                gone("params.yaml"),
                "check",
                "params.yaml: no such file; run from the project's folder, or pass --params FILE",
            ),
            (
                "an override without a value",
                nothing,
                "check -S train.steps",
                "-S train.steps: write it as section.key=value, such as -S train.steps=500",
            ),
            (
                "an override of a section that does not exist",
                nothing,
                "check -S trian.steps=5",
                "-S trian.steps=5: no section `trian` (did you mean `train`?); there are assess, dataset, "
                "extract, machine, probe, runs, students, teachers, train",
            ),
            (
                "an override inside a value",
                nothing,
                "check -S train.steps.more=5",
                "-S train.steps.more=5: `train.steps` is 30, not a mapping; set all of it, or write it as a "
                "mapping in the file",
            ),
            (
                "an override of what only an earlier stage reads",
                nothing,
                "train aft -S dataset.labelled=30",
                "-S dataset.labelled=30: `aft train` does not read `dataset`; pass it to `aft prepare` and run the "
                "stages after that, or to `aft run --direct`, which runs all",
            ),
            (
                "an override of another run than the one to train",
                nothing,
                "train aft -S runs.none.student=bag",
                "-S runs.none.student=bag: `aft train` reads `runs.aft` here, and not `runs.none`; drop it, or correct "
                "the name",
            ),
            (
                "an override of a student that the run does not have",
                params(lambda values: values["students"].update(other={"family": "bag_of_words"})),
                "train aft -S students.other.width=4",
                "-S students.other.width=4: `aft train` reads `students.bag` here, and not `students.other`; drop it, "
                "or correct the name",
            ),
            (
                "an override of what an export was trained with",
                nothing,
                "export aft --output out -S 'train.seeds=[5]'",
                "-S train.seeds=[5]: `aft export` does not read `train`; pass it to `aft train` or `aft sweep` or `aft "
                "replay` and run the stages after that, or to `aft run --direct`, which runs all",
            ),
            (
                "an override of what two runs were trained with",
                nothing,
                "compare none aft -S runs.aft.student=bag",
                "-S runs.aft.student=bag: `aft compare` does not read `runs`; pass it to `aft assess` or `aft join` or "
                "`aft train` and run the stages after that, or to `aft run --direct`, which runs all",
            ),
            (
                "a refit with other settings than the run was trained with",
                both(trained_by_command, params(lambda values: values["train"].update(learning_rate=0.5))),
                "export none --output out --refit",
                "--refit: run none was trained with other settings (`train.learning_rate` 0.01, now 0.5); run `aft "
                "train none`",
            ),
            (
                "an override of another teacher than the one to extract",
                nothing,
                "extract wise -S teachers.loud.model=m",
                "-S teachers.loud.model=m: `aft extract` reads `teachers.wise` here, and not `teachers.loud`; drop it, "
                "or correct the name",
            ),
            (
                "an override of a run that a sweep does not start from",
                swept({"student": "bag"}),
                "sweep mine -S runs.none.student=bag",
                "-S runs.none.student=bag: `aft sweep` reads none here, and not `runs.none`; drop it, or correct "
                "the name",
            ),
            (
                "an override of a key that a run does not have, for the report",
                nothing,
                "report -S runs.aft.weight=3",
                "params.yaml: runs.aft: unknown key `weight`; allowed are <names>",
            ),
            (
                "a run compared with itself",
                nothing,
                "compare aft aft",
                "aft: given twice; name another run to compare it with",
            ),
            (
                "a run compared that params.yaml has no more",
                trained,
                "compare none gone",
                "params.yaml: no section `runs.gone` (did you mean `none`?); `runs` has aft, both, none",
            ),
            (
                "two tables at once",
                swept({"student": "bag"}),
                "runs --sweep mine --trials",
                "--sweep and --trials are two tables; write one of them",
            ),
            (
                "a teacher that is a number",
                teacher_is(7),
                "check",
                "params.yaml: `teachers.wise` must be a mapping of settings, found 7",
            ),
            (
                "a teacher without a family",
                teacher(model="m"),
                "check",
                "params.yaml: teachers.wise: missing key `family`; one of <names>",
            ),
            (
                "a short form that is not known",
                teacher_is("tim:resnet18"),
                "check",
                "params.yaml: teachers.wise: 'tim:resnet18' is not a short form (did you mean `timm`?); write "
                "one of <names>, or a mapping with `family`",
            ),
            (
                "a short form without a name",
                teacher_is("timm:"),
                "check",
                "params.yaml: teachers.wise: 'timm:' names no model; write timm:NAME",
            ),
            (
                "a short form of a student that cannot be trained",
                student_is("features:x.npy"),
                "check",
                "params.yaml: students.bag: 'features:x.npy' is not a short form; write one of <names>, or a "
                "mapping with `family`",
            ),
            (
                "`reads` of a teacher that is no side",
                teacher(family="transformers", model="m", reads="left"),
                "check",
                "params.yaml: teachers.wise.reads: 'left'; write first or second, of a pair",
            ),
            (
                "views that are no mapping",
                teacher(family="transformers", model="m", views=3),
                "check",
                "params.yaml: teachers.wise.views: expected a mapping such as {family: crops, count: 4}, found 3",
            ),
            (
                "no views at all",
                teacher(family="transformers", model="m", views={"family": "word_dropout", "count": 0}),
                "check",
                "params.yaml: teachers.wise.views.count: 0 views; write 1 or more, or drop `views` to keep clean "
                "rows alone",
            ),
            (
                "an augmentation that is no mapping",
                trains(augment={"word_dropout": 3}),
                "check",
                "params.yaml: train.augment.word_dropout: should be a mapping, found 3",
            ),
            (
                "augmentations of images for a student of texts",
                trains(augment={"flip": {}}),
                "check",
                "params.yaml: train.augment (for none): `flip` changes rows of kind image, and the student reads "
                "text; take word_dropout",
            ),
            (
                "CUDA graphs for a student of texts",
                trains(compile="cuda_graphs"),
                "check",
                "params.yaml: train (for none): compile: cuda_graphs: is for batches of one shape, and texts differ in "
                "length; set it to true",
            ),
            (
                "CUDA graphs for a step in parts",
                trains(compile="cuda_graphs", accumulate=2),
                "check",
                "params.yaml: train: compile: cuda_graphs and accumulate: 2: each part would overwrite the "
                "gradients of the one before; set `compile: true`, or `accumulate: 1`",
            ),
            (
                "a student of images on texts",
                student_is({"family": "compact_cnn"}),
                "check",
                "params.yaml: students.bag: this family reads image, and the dataset holds text; choose another family",
            ),
            (
                "a score that the task does not have",
                trains(val="acuracy"),
                "prepare",
                "train.val: classification has no score `acuracy` (did you mean `accuracy`?); <names>",
            ),
            (
                "weights of a class that does not exist",
                trains(class_weights={"god": 2.0}),
                "train none",
                "train.class_weights: no class 'god'; there are bad, good, plain",
            ),
            (
                "methods without teachers",
                run(methods={"kd": {"weight": 1.0}}),
                "check",
                "params.yaml: runs.none: methods without teachers; add `teachers: [...]`, or drop `methods` to "
                "train plainly",
            ),
            (
                "a live teacher without methods",
                run(teacher="live", teachers=["wise"]),
                "check",
                "params.yaml: runs.none: teacher: live, and no methods that listen to it; drop it, or add `methods`",
            ),
            (
                "a run under two names",
                params(lambda values: values["runs"].update(again={"student": "bag", "search": {}})),
                "check",
                "params.yaml: runs.none and runs.again are the same run, under two names; drop one, or change what "
                "should differ",
            ),
            (
                "a teacher that is listed twice",
                run(teachers=["wise", "wise"]),
                "check",
                "params.yaml: runs.none: a teacher or a method is listed twice",
            ),
            (
                "a weight below 0",
                run(teachers=["wise"], methods={"kd": {"weight": -1.0}}),
                "check",
                "params.yaml: runs.none: the weight of `kd` is [-1.0]; give one or more numbers >= 0, or auto",
            ),
            (
                "a search over a setting that is not searched",
                run(search={"train.val": ["accuracy"]}),
                "check",
                "params.yaml: runs.none.search: train.val: ['accuracy']; write student.<key>, train.<key> (not "
                "seeds, race or val) or methods.<name of one of the run's methods>.<key>, and a list of numbers "
                "or words, such as student.dropout: [0.3, 0.6]",
            ),
            (
                "views that a teacher does not have",
                run(teachers=["wise@crops"], methods={"kd": {"weight": 1.0}}),
                "check",
                "params.yaml: runs.none.teachers: `wise@crops`: teachers.wise has no views; write `views: "
                "{family: crops, count: 4}` there, and run `aft extract wise` and `aft probe wise`",
            ),
            (
                "a queue longer than the training rows",
                run(teachers=["wise"], methods={"aft": {"weight": 1.0, "queue": 100_000}}),
                "train none",
                "aft: queue: 100000 exceeds the 150 training rows; lower it",
            ),
            (
                "a product of the features of one teacher",
                run(teachers=["wise"], methods={"aft": {"weight": 1.0, "combine": "outer_product"}}),
                "train none",
                "aft: combine: outer_product needs two teachers or more; add one to the run's `teachers`, then "
                "run `aft extract NAME` and `aft probe NAME`",
            ),
            (
                "gains of teachers with one teacher",
                run(teachers=["wise"], methods={"aft": {"weight": 1.0, "form": "teacher_gain"}}),
                "train none",
                "aft: form: teacher_gain weighs teachers, and the run has one; use form: fixed, or add one to "
                "the run's `teachers`, then run `aft extract NAME` and `aft probe NAME`",
            ),
        )
    ),
    *(
        Case("Tables", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "near duplicates of texts",
                table(many(20, "ab"), dataset={"deduplicate": "near"}),
                "prepare",
                "dataset.deduplicate: near compares images, and the source holds texts; write exact or token_set",
            ),
            (
                "further rows of another kind",
                table(many(20, "ab"), dataset={"unlabelled": {"family": "image_folder", "path": "raw"}}),
                "prepare",
                "params.yaml: dataset.unlabelled: image_folder holds image rows, and the source text; choose "
                "another, or remove it",
            ),
            (
                "a list of one label column",
                table(many(20, "ab"), label_column=["mood"]),
                "prepare",
                "dataset.source.label_column: a list must name two or more columns of 0 and 1, without "
                "label_separator; for one column write its name",
            ),
            (
                "a label column without a 1",
                table(marks("0"), label_column=["a", "b"]),
                "prepare",
                "raw/reviews.csv: column 'b' of dataset.source.label_column has no 1 in any row; remove it",
            ),
            (
                "a label that is not UTF-8",
                table(b"text,mood\nx,caf\xe9\n"),
                "prepare",
                "raw/reviews.csv: line 2: column 'mood': byte 0xe9 at character 4 is not utf-8; it "
                "looks like <encodings>: set `encoding` to the one that reads right",
            ),
            (
                "an empty label between separators",
                table("text,mood\n" + "x,a;;b\n", label_separator=";"),
                "prepare",
                "raw/reviews.csv: line 2: column 'mood' has an empty label in 'a;;b'; remove it",
            ),
            (
                "a cell that may be several rows",
                table('text,mood\n"x,a\ny,b\nz",a\n' + many(20, "ab").partition("\n")[2]),
                "prepare",
                "raw/reviews.csv: line 2: a cell in quotes spans 3 lines, the first of which reads as a row, "
                "with the label 'a'; set `quotes` to `doubled` if quotes stand around cells, `none` "
                'if they belong to the texts, `backslash` if \\" stands for one',
            ),
            (
                "a file that is listed twice",
                table(many(20, "ab"), path=["raw/reviews.csv", "raw/reviews.csv"]),
                "prepare",
                "raw/reviews.csv: is in dataset.source.path twice; remove one",
            ),
            (
                "an empty list of files",
                table(many(20, "ab"), path=[]),
                "prepare",
                "dataset.source.path: an empty list; name a file",
            ),
            (
                "a table that is not there",
                table(many(20, "ab"), path="raw/reviws.csv"),
                "prepare",
                "raw/reviws.csv: no such file; check dataset.source.path",
            ),
            (
                "a Parquet that is compressed again",
                table("x", name="t.parquet.gz"),
                "prepare",
                "raw/t.parquet.gz: .parquet is compressed by itself; decompress it first",
            ),
            (
                "a text in another encoding than the setting says",
                table("text,mood\nx,ä\n".encode(), encoding="ascii"),
                "prepare",
                "raw/reviews.csv: line 2: column 'mood': byte 0xc3 at character 1 is not ascii, but "
                "utf-8; leave `encoding` out",
            ),
            (
                "a number of thousands of digits",
                table('{"text": "x", "mood": ' + "9" * 5000 + "}\n", name="t.jsonl"),
                "prepare",
                "raw/t.jsonl: line 1 has a number of thousands of digits; write it as a text",
            ),
            (
                "a template without a column",
                table(many(20, "ab"), template="say"),
                "prepare",
                "dataset.source.template: write names of columns in braces, such as {premise} {hypothesis}",
            ),
            (
                "a template with a lone brace",
                table(many(20, "ab"), template="{text"),
                "prepare",
                "dataset.source.template: expected '}' before end of string; write a brace of the text twice",
            ),
            (
                "a source without rows",
                table("text,mood\n"),
                "prepare",
                "dataset.source: it has no rows with these settings",
            ),
            (
                "several labels with a unit",
                table(marks(), label_column=["a", "b"], dataset={"unit": "EUR"}),
                "prepare",
                "dataset.unit: 'EUR': labels that a row has or has not have no unit; remove it",
            ),
            (
                "no label on any row",
                table(many(20, [""]), label_separator=";", dataset={"task": "multilabel"}),
                "prepare",
                "dataset: no row has any label; there is nothing to learn",
            ),
            (
                "a label that every row has",
                table(
                    "text,tags\n" + "".join(f"text {n},a{';b' * (n % 2)}\n" for n in range(20)),
                    label_column="tags",
                    label_separator=";",
                ),
                "prepare",
                "dataset: all rows have the label 'a'; remove it",
            ),
            (
                "a label on two rows",
                table(
                    "text,tags\n" + "".join(f"text {n},{'ab'[n > 1]}{';c' * (n % 2)}\n" for n in range(20)),
                    label_column="tags",
                    label_separator=";",
                ),
                "prepare",
                "dataset: 2 rows with the label 'a', which needs 3 to be in train, val and test; add some, or "
                "remove the label",
            ),
            (
                "a unit that stands for shares",
                table(many(20, [1.5, 2]), dataset={"task": "regression", "unit": "%"}),
                "prepare",
                "dataset.unit: write percent instead of %, which stands for shares of 1 here",
            ),
            (
                "labels that hardly differ",
                table(many(20, [1e6, 1e6 + 1]), dataset={"task": "regression"}),
                "prepare",
                "dataset: labels are near 1e+06 and differ by 0.5 only, which single precision cannot tell apart "
                "well; subtract a constant from them",
            ),
        )
    ),
    *(
        Case("Images and other sources", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "two folders of one name",
                source("image_folder", path=["a/photos", "b/photos"]),
                "prepare",
                "dataset.source.path: two folders are called 'photos'; rename one",
            ),
            (
                "an empty list of folders",
                source("image_folder", path=[]),
                "prepare",
                "dataset.source.path: an empty list; name a folder",
            ),
            (
                "a folder of unlabelled images that is not there",
                images_with(unlabelled="rest"),
                "prepare",
                "raw/images: no folder 'rest' there; check dataset.source.unlabelled",
            ),
            (
                "splits inside of classes",
                images(write("raw/images/a/train/1.png", "x"), write("raw/images/a/test/2.png", "x")),
                "prepare",
                "raw/images/a: holds the splits test, train; a split comes before the class, as in "
                "raw/images/test/a; or write `splits: {}` in dataset.source to ignore them",
            ),
            (
                "an empty folder of images",
                both(source("image_folder", path="raw/photos"), write("raw/photos/note.txt", "x")),
                "prepare",
                "raw/photos: no folders of classes there; put the images of each class into a folder of its "
                "name, or write `labels: false`",
            ),
            (
                "a class without images",
                images(write("raw/images/c/note.txt", "x")),
                "prepare",
                "raw/images/c: no images there; remove the folder, or add some (AVIF, BMP, GIF, JPEG, JPEG2000, "
                "PNG, PPM, TIFF, WEBP)",
            ),
            (
                "a name that is not UTF-8",
                both(images(), name_in_latin_1),
                "prepare",
                "raw/images: the name b'a/caf\\xe9.png' is not in UTF-8, as in archives of older systems; rename "
                "it, with `convmv` for instance",
            ),
            (
                "unlabelled images where folders have no meaning",
                images_with(labels=False, unlabelled="a"),
                "prepare",
                "dataset.source: labels: false takes neither `unlabelled` nor `splits`; remove them",
            ),
            (
                "a split that is not there",
                images_with(splits={"train": "train"}),
                "prepare",
                "raw/images: no folder 'train' there; check dataset.source.splits",
            ),
            (
                "a folder that is no split",
                images_with(splits={"a": "train"}),
                "prepare",
                "raw/images: 'b' is not in dataset.source.splits; add it there, or move it out",
            ),
            (
                "a column of images that is missing",
                both(source("image_table", path="raw/list.csv"), write("raw/list.csv", "file\nx.png\n")),
                "prepare",
                "raw/list.csv: no column 'image'; there are 'file'",
            ),
            (
                "URLs of a scheme that is not read",
                both(
                    source("image_table", path="raw/list.csv"), write("raw/list.csv", "image\nfile:///etc/hostname\n")
                ),
                "prepare",
                "dataset.source: 1 of 1 row cannot be read, the first is row file:///etc/hostname (line 2): "
                "leads to a URL that is neither http nor https; correct them, or raise dataset.tolerance (all "
                "are listed in data.quarantine.csv)",
            ),
            (
                "several arrays in one file",
                both(source("arrays", path="raw/x.npy"), archive_of_arrays),
                "prepare",
                "raw/x.npy: an archive of numpy, and a single array is needed; save it by `numpy.save`",
            ),
            (
                "labels that are no labels",
                both(
                    source("arrays", path="raw/x.npy", labels="raw/y.npy"),
                    array("x.npy", GREY),
                    array("y.npy", np.zeros(12, complex)),
                ),
                "prepare",
                "raw/x.npy: labels are numbers or texts, not complex128",
            ),
            (
                "channels that may be first or last",
                both(source("arrays", path="raw/x.npy"), array("x.npy", np.zeros((12, 3, 8, 3), np.uint8))),
                "prepare",
                "raw/x.npy: images of shape [3, 8, 3]: set dataset.source.channels_first to true or false",
            ),
            (
                "channels that are not where the setting says",
                both(
                    source("arrays", path="raw/x.npy", channels_first=True),
                    array("x.npy", np.zeros((12, 8, 8, 3), np.uint8)),
                ),
                "prepare",
                "raw/x.npy: dataset.source.channels_first: true does not fit [8, 8, 3]",
            ),
            (
                "an array that is not there",
                source("arrays", path="raw/x.npy"),
                "prepare",
                "raw/x.npy: no such file; check dataset.source",
            ),
            (
                "an array of HDF5 under another name",
                both(source("arrays", path="x.h5"), hdf5(lambda file: file.create_dataset("pixels", data=GREY))),
                "prepare",
                "x.h5: no array 'images'; there are pixels",
            ),
            (
                "a dataset of Hugging Face with a path and a name",
                source("hugging_face", path="raw", name="x/y", image_column="image"),
                "prepare",
                "dataset.source: write either path, a folder of `save_to_disk`, or name",
            ),
            (
                "a record of `save_to_disk` that is damaged",
                both(source("hugging_face", path="raw", image_column="image"), write("raw/state.json", "{")),
                "prepare",
                "raw/state.json: damaged; save the dataset again with `save_to_disk`",
            ),
            (
                "a saved dataset without files",
                both(
                    source("hugging_face", path="raw", image_column="image"),
                    write("raw/state.json", '{"_data_files": []}'),
                ),
                "prepare",
                "raw: it has no data files; save it again with `save_to_disk`",
            ),
            (
                "a split of Hugging Face that is not there",
                both(
                    source("hugging_face", path="raw/saved", image_column="image", splits={"dev": "val"}),
                    saved_splits("train", "test"),
                ),
                "prepare",
                "dataset.source.splits: no split 'dev'; there are train, test",
            ),
            (
                "a split of Hugging Face whose use is not known",
                both(
                    source("hugging_face", path="raw/saved", image_column="image"),
                    saved_splits("train", "unsupervised"),
                ),
                "prepare",
                "dataset.source.splits: the use of split 'unsupervised' is not known; write the splits to read, "
                "such as {train: train, unsupervised: train}",
            ),
            (
                "rows of your own that are no rows",
                both(source("python", factory="mine:rows", kind="image"), write("mine.py", "def rows(): return [1]\n")),
                "prepare",
                "mine:rows: item 1 is int, not a pipeline.datasets.Row whose content is bytes, as kind: image says",
            ),
            (
                "rows of your own without ids",
                both(
                    source("python", factory="without_ids:rows", kind="image"),
                    write("without_ids.py", "from pipeline.datasets import Row\ndef rows(): return [Row('', b'x')]\n"),
                ),
                "prepare",
                "without_ids:rows: item 1 has the id ''; every row needs a text as its id",
            ),
            (
                "a shard that is not there",
                source("webdataset", path="raw/x.tar"),
                "prepare",
                "raw/x.tar: no such file; check dataset.source.path",
            ),
            (
                "a sample of a shard with two images of one ending",
                both(source("webdataset", path="raw/x.tar"), tar(("a.png", b"x"), ("a.PNG", b"y"))),
                "prepare",
                "raw/x.tar: the sample a has 'png' twice; give each sample its own name",
            ),
            (
                "a sample of a shard with two images",
                both(source("webdataset", path="raw/x.tar"), tar(("a.png", b"x"), ("a.jpg", b"y"))),
                "prepare",
                "raw/x.tar: the sample a has jpg, png; write the ending that is the image, as in "
                "dataset.source.images: [jpg]",
            ),
            (
                "a label of a shard that is not JSON",
                both(
                    source("webdataset", path="raw/x.tar", labels="json:mood"), tar(("a.png", b"x"), ("a.json", b"{"))
                ),
                "prepare",
                "raw/x.tar: sample a: its label is not a JSON object",
            ),
            (
                "a label of a shard that is an object",
                both(
                    source("webdataset", path="raw/x.tar", labels="json:mood"),
                    tar(("a.png", b"x"), ("a.json", b'{"mood": {"a": 1}}')),
                ),
                "prepare",
                "raw/x.tar: sample a: its label {'a': 1} is not a text, a number or a list of them",
            ),
            (
                "a shard with another one behind it",
                both(source("webdataset", path="raw/x.tar"), tar(("a.png", b"x")), shard_twice),
                "prepare",
                "raw/x.tar: has data after its end, such as another archive; split it",
            ),
            (
                "a name in a shard that is not UTF-8",
                both(source("webdataset", path="raw/x.tar"), tar(("caf\udce9.png", b"x"))),
                "prepare",
                "raw/x.tar: the name 'caf\\udce9.png' is not in UTF-8; rename it",
            ),
        )
    ),
    *(
        Case("Sweeps", wrong, swept_with(more, over), "check", answer)
        for wrong, more, over, answer in (
            (
                "methods that are a number",
                {},
                {"student": "bag", "methods": [3]},
                "params.yaml: sweep.mine.over: methods: 3; write a method's name, {NAME: {KEY: VALUE}}, or none",
            ),
            (
                "a search over several mappings",
                {"search": {"points": 4}},
                [{"student": "bag"}, {"student": "bag"}],
                "params.yaml: sweep.mine: a search has one mapping `over`, and there are 2; make them sweeps",
            ),
            (
                "more points than are trained",
                {},
                {"student": "bag", "train.steps": list(range(1, 102)), "train.batch_size": list(range(1, 101))},
                "params.yaml: sweep.mine: 10,100 points, more than 10,000; list fewer values, or use `search`",
            ),
            (
                "a key that changes nothing",
                {},
                {"student": "bag", "students.other.width": [1, 2]},
                "params.yaml: sweep.mine.over: students.other.width: changes no point; check its names, or drop it",
            ),
            (
                "no student",
                {},
                {"train.steps": [1, 2]},
                "params.yaml: sweep.mine.over: no student; add `student: [...]`, or start from runs with `run: [...]`",
            ),
            (
                "a key of the machine",
                {},
                {"student": "bag", "machine.workers": [1, 2]},
                "params.yaml: sweep.mine.over: machine.workers: it changes no result; set it in `machine`",
            ),
            (
                "seeds as values",
                {},
                {"student": "bag", "train.seeds": [[0], [1]]},
                "params.yaml: sweep.mine.over: train.seeds: seeds are not compared; write `seeds: [...]` next to "
                "`over`",
            ),
            (
                "a value that is listed twice",
                {},
                {"student": "bag", "train.steps": [1, 1]},
                "params.yaml: sweep.mine.over: train.steps: 1 is listed twice; drop one",
            ),
            (
                "a range without a search",
                {},
                {"student": "bag", "train.learning_rate": {"low": 0.1, "high": 1.0}},
                "params.yaml: sweep.mine.over: train.learning_rate: a range needs `search: {points: 40}`; or "
                "list values",
            ),
            (
                "a point without a student",
                {},
                {"student": [None]},
                "params.yaml: sweep.mine.over: no student; add `student: [...]`, or start from runs with `run: [...]`",
            ),
            (
                "a list of students as one value",
                {},
                {"student": [["bag"]]},
                "params.yaml: sweep.mine.over: student: ['bag']; write keys of `students`",
            ),
            (
                "a weight that is no number",
                {},
                {"student": "bag", "teachers": "wise", "methods": "aft", "weight": ["nan"]},
                "params.yaml: sweep.mine: student=bag, teachers=wise, methods=aft, weight=nan: runs.point.methods[0]."
                "weight[0]: should be a valid number, found 'nan' (and 1 more)",
            ),
            (
                "a range that is empty",
                {"search": {"points": 4}},
                {"student": "bag", "train.learning_rate": {"low": 1.0, "high": 0.1}},
                "params.yaml: sweep.mine.over: train.learning_rate: {'low': 1.0, 'high': 0.1}: one range for a "
                "key, with low < high, and low > 0 with log",
            ),
        )
    ),
    *(
        Case("Predictions", wrong, change, command, answer)
        for wrong, change, command, answer in (
            (
                "images for a student of images, by stdin",
                exported_for_images,
                "predict student -",
                "-: this student reads images; give folders, files or tables of images",
            ),
            ("a file of rows that is not there", exported, "predict student nowhere.csv", "nowhere.csv: no such file"),
            (
                "a device that does not exist, for predictions",
                exported,
                "predict student raw/reviews.csv --device gpu",
                "aft predict.device: should be auto, cpu, cuda, cuda:N (a number from 0) or mps, found 'gpu'",
            ),
            (
                "texts in a pipe",
                both(exported, pipe("texts.csv")),
                "predict student texts.csv",
                "texts.csv: a pipe, socket or device; copy what it gives to a file, or give - for texts on standard "
                "input",
            ),
            (
                "images from a device",
                exported_for_images,
                "predict student /dev/null",
                "/dev/null: a pipe, socket or device; copy what it gives to a file",
            ),
            (
                "a link to an image that is gone",
                both(exported_for_images, link("pictures/a/gone.png", "nowhere.png")),
                "predict student pictures",
                "no row could be read; the first is a/gone.png: cannot be read: No such file or directory",
            ),
            (
                "a folder for the predictions",
                both(exported, write("in.txt", "good\n"), folder("out.csv")),
                "predict student in.txt --output out.csv",
                "--output out.csv: is a folder; choose another name",
            ),
        )
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
