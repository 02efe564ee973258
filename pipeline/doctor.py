"""Checks of the machine, the weights and the data before anything expensive: `aft doctor`.

`aft check` tells in a second whether params.yaml can be run. This loads every teacher, builds every student and reads
every row.
"""

import os
import platform
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import torch

from pipeline import images
from pipeline.checks import check_params, missing_views, size
from pipeline.data import Dataset, PrepareSettings, Scan, scan_sources
from pipeline.datasets import Row, parts_of, rows_called
from pipeline.errors import UserError, count, listed
from pipeline.extraction import ExtractSettings, place_of_features, stored_heads, teacher_alone
from pipeline.machine import Machine, cores
from pipeline.params import Params
from pipeline.progress import duration
from pipeline.project import Project
from pipeline.provenance import OF_FEATURES, versions
from pipeline.store import available_memory, writable
from pipeline.students import kind_of, student_blueprint
from pipeline.tasks import Task
from pipeline.teachers import Teacher
from pipeline.views import teacher_views

Level = Literal["ok", "warning", "problem"]

LITTLE_MEMORY, LITTLE_DISK = 2 << 30, 2 << 30
"""Free bytes below which there is a warning."""

FILES = 1024
"""The number of open files that a process should be allowed."""

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "lustre", "gpfs")
"""Types of network file systems, whose locks and flushes depend on a server."""

SAMPLE = 512
"""The number of texts whose lengths are measured."""

RARE, UNEVEN = 10, 50
"""Rows below which a class is rare, and the ratio of the largest to the smallest from which classes are uneven."""

CUT = 0.05
"""The share of texts that are cut above which there is a warning."""

LARGE = 16
"""Images with this many times the pixels of 224 x 224 are likely to cost more to decode than a small teacher takes."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        about: what was checked, such as `disk` or `teacher minilm`.
        level: ok; a warning, which stops nothing; or a problem, with which a command will fail.
        found: what was found.
        advice: what to do; empty if it is ok.
    """

    about: str
    level: Level
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:<7} {self.about}: {self.found}{f'; {self.advice}' if self.advice else ''}"


@dataclass(frozen=True)
class Health:
    """All that was found.

    Attributes:
        findings: in the order in which things were looked at.
    """

    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether there is no problem."""
        return all(finding.level != "problem" for finding in self.findings)

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings)


@dataclass
class _Seen:
    """What the pass over the rows keeps for later.

    Attributes:
        rows: how many there were.
        texts: a random sample of them.
        sizes: width and height of every image.
        random: chooses the sample.
        task: what the labels are, once it is known.
    """

    rows: int = 0
    texts: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    task: Task | None = None


def doctor(params: Params, project: Project = Project()) -> Health:
    """Look at machine, data and weights.

    Raises:
        UserError: params.yaml cannot be read as it is.
    """
    check_params(params)
    findings: list[Finding] = []
    teachers: dict[str, Teacher] = {}
    seen = _Seen()

    def attempt(about: str, look: Callable[[], Iterator[Finding]]) -> None:
        try:
            findings.extend(look())
        except UserError as error:
            findings.append(Finding(about, "problem", str(error)))

    attempt("versions", _versions)
    attempt("device", lambda: _device(params))
    attempt("memory", _memory)
    attempt("limits", lambda: _limits(project))
    attempt("data", lambda: _data(params, seen))
    for name in params.section("teachers"):
        attempt(f"teacher {name}", lambda name=name: _teacher(params, name, teachers, seen))  # type: ignore[misc]
        if name in teachers:
            attempt(f"teacher {name}", lambda name=name: _lengths(name, teachers[name], seen))  # type: ignore[misc]
    for name in params.section("students"):
        attempt(f"student {name}", lambda name=name: _student(params, project, name))  # type: ignore[misc]
    attempt("disk", lambda: _disk(params, project, teachers, seen))
    return Health(tuple(findings))


def _versions() -> Iterator[Finding]:
    found = versions(*OF_FEATURES, "zarr")
    on = f"{platform.system()} {platform.machine()}"
    yield Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in found.items()) + f"; {on}")


def _device(params: Params) -> Iterator[Finding]:
    machine, settings = params.read(Machine, "machine"), params.read(ExtractSettings, "extract")
    device = machine.torch_device()
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found = f"{machine.device_name()}, {size(free)} of {size(total)} free"
        if free < LITTLE_MEMORY:
            yield Finding("device", "warning", found, "end the other programs that use it")
        else:
            yield Finding("device", "ok", found)
        return
    found = f"{machine.device_name()}, {count(cores(), 'core')}"
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        advice = "if there is a GPU, install a torch that was built for its driver (https://pytorch.org)"
        yield Finding("device", "warning", f"{found}; there is nvidia-smi, but torch finds no GPU", advice)
    else:
        yield Finding("device", "ok", found)
    if device.type == "cpu" and settings.precision == "float16":
        advice = "set extract.precision to float32, or to bfloat16 where the processor has it"
        yield Finding("precision", "warning", "float16 is slower than float32 on a CPU", advice)
    if device.type == "cpu" and settings.precision == "bfloat16" and not _has_bfloat16():
        advice = "set extract.precision to float32"
        yield Finding("precision", "warning", "this processor does not compute in bfloat16, and emulates it", advice)


def _has_bfloat16() -> bool:
    """Whether the CPU says that it multiplies in bfloat16; true if it says nothing."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def _memory() -> Iterator[Finding]:
    free = available_memory()
    if free < LITTLE_MEMORY:
        yield Finding("memory", "warning", f"{size(free)} available", "close other programs, or use a larger machine")
    else:
        yield Finding("memory", "ok", f"{size(free)} available")


def _limits(project: Project) -> Iterator[Finding]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= files < FILES:
        yield Finding("limits", "warning", f"{count(files, 'open file')} a process", f"raise it: `ulimit -n {FILES}`")
    else:
        yield Finding("limits", "ok", f"{count(files, 'open file')} a process")
    for name, what, flag in ((resource.RLIMIT_FSIZE, "size of a file", "f"), (resource.RLIMIT_AS, "memory", "v")):
        limit = resource.getrlimit(name)[0]
        if limit != resource.RLIM_INFINITY:
            found = f"the {what} is limited to {size(limit)}"
            yield Finding("limits", "warning", found, f"lift it: `ulimit -{flag} unlimited`")
    if (kind := _file_system(project.root)) in NETWORK:
        advice = "keep the project on a local disk, and copy finished stores"
        yield Finding("file system", "warning", f"{kind}, a network file system: slow, and only its locks hold", advice)
    elif kind:
        yield Finding("file system", "ok", kind)


def _file_system(folder: Path) -> str | None:
    """The type of the file system of a folder; None where the system does not say."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return None
    here = folder.absolute().resolve()
    mounts = [(Path(line.split()[1].encode().decode("unicode_escape")), line.split()[2]) for line in lines]
    found = [(len(place.parts), kind) for place, kind in mounts if here == place or place in here.parents]
    return max(found)[1] if found else None


def _data(params: Params, seen: _Seen) -> Iterator[Finding]:
    settings = params.read(PrepareSettings, "dataset")
    sources, table = scan_sources(settings, lambda row: _look(row, seen))
    seen.task = table.task
    rows, labelled = len(table.codes) - len(table.skipped), int((table.codes >= 0).sum())
    yield Finding("data", "ok", f"{rows:,} {rows_called(sources.kind)}, {labelled:,} with a label ({table.task.name})")
    yield from _unreadable(table, rows, settings.tolerance)
    for remark, (number, first) in table.remarks.items():
        words = images.REMARKS.get(remark, remark)
        yield Finding(
            "data", "warning", f"{count(number, 'row')}: {words}", f"look at them, such as {table.place(first)}"
        )
    yield from _classes(table)
    yield from _duplicates(table, settings.deduplicate)
    yield from _sizes(seen)


def _look(row: Row, seen: _Seen) -> None:
    """`seen` gets a sample of texts, and the sizes of images."""
    seen.rows += 1
    for part in row.content if isinstance(row.content, tuple) else (row.content,):
        if isinstance(part, bytes):
            if row.problem is None and (pixels := images.pixels(part)):
                seen.sizes.append(pixels)
        elif len(seen.texts) < SAMPLE:
            seen.texts.append(part)
        elif (place := int(seen.random.integers(seen.rows))) < SAMPLE:  # each row is in the sample with equal chance
            seen.texts[place] = part


def _unreadable(table: Scan, rows: int, tolerance: float) -> Iterator[Finding]:
    if table.skipped:
        row, what = next(iter(table.skipped.items()))
        found = f"{count(len(table.skipped), 'file')} not used, such as {table.place(row)}: {what}"
        yield Finding("data", "warning", found, "move them away if they are no rows")
    if not table.problems:
        yield Finding("unreadable rows", "ok", "none")
        return
    row, what = next(iter(table.problems.items()))
    found = f"{len(table.problems):,} of {rows:,}, the first is {table.place(row)}: {what}"
    if len(table.problems) > tolerance * rows:
        yield Finding("unreadable rows", "problem", found, "correct or remove them, or raise dataset.tolerance")
    else:
        yield Finding("unreadable rows", "warning", found, "dataset.tolerance allows them; they are left out")


def _classes(table: Scan) -> Iterator[Finding]:
    if not (table.codes >= 0).any():
        yield Finding("labels", "warning", "no row has one", "features can be extracted, but nothing can be trained")
        return
    numbers = dict(zip(table.task.classes, table.task.class_rows(table.labels).tolist(), strict=True))
    if not numbers:
        return
    rarest, largest = min(numbers, key=lambda name: numbers[name]), max(numbers, key=lambda name: numbers[name])
    least, most = count(numbers[rarest], "row"), f"{numbers[largest]:,}"
    even = numbers[rarest] == numbers[largest]
    found = f"{len(numbers):,}, " + (f"{least} each" if even else f"from {least} ({rarest}) to {most} ({largest})")
    if numbers[rarest] < RARE:
        advice = "label more of them, join classes, or list those to keep in dataset.classes"
        yield Finding("classes", "warning", f"{found}: fewer than {RARE} are too few for every part of a split", advice)
    elif numbers[largest] > UNEVEN * numbers[rarest]:
        yield Finding("classes", "warning", f"{found}: uneven", "set train.class_weights to balanced")
    else:
        yield Finding("classes", "ok", found)


def _duplicates(table: Scan, deduplicate: str) -> Iterator[Finding]:
    readable = np.setdiff1d(np.arange(len(table.codes)), [*table.problems, *table.skipped])
    _, same = np.unique(table.keys[readable], axis=0, return_inverse=True)
    same = same.reshape(-1)
    extra = len(readable) - len(np.unique(same))
    pairs = np.unique(np.stack([same, table.splits[readable]]), axis=1)
    across = int((np.bincount(pairs[0]) > 1).sum()) if len(readable) else 0
    if across:
        found = f"{count(extra, 'repeated row')}; {count(across, 'content')} in more than one split of the source"
    else:
        found = count(extra, "repeated row") if extra else "none"
    if not extra:
        yield Finding("duplicates", "ok", found)
    elif deduplicate == "none":
        advice = "set dataset.deduplicate to exact, or scores on test rows mean little"
        yield Finding("duplicates", "problem" if across else "warning", f"{found}, and all are kept", advice)
    else:
        yield Finding("duplicates", "warning" if across else "ok", found, "`aft prepare` keeps one of each")


def _sizes(seen: _Seen) -> Iterator[Finding]:
    if not seen.sizes:
        return
    areas = sorted(seen.sizes, key=lambda pixels: pixels[0] * pixels[1])
    least, middle, most = (f"{width} x {height}" for width, height in (areas[0], areas[len(areas) // 2], areas[-1]))
    found = f"from {least} to {most} pixels, half of them up to {middle}"
    width, height = areas[len(areas) // 2]
    if width * height > LARGE * 224**2:
        advice = "decoding will take most of the time; save copies of the size that is needed, once"
        yield Finding("images", "warning", found, advice)
    else:
        yield Finding("images", "ok", found)


def _teacher(params: Params, name: str, loaded: dict[str, Teacher], seen: _Seen) -> Iterator[Finding]:
    began = perf_counter()
    teacher = teacher_alone(params, name)
    if seen.task is not None:
        teacher.name_classes(seen.task)
    loaded[name] = teacher
    heads = ", ".join(f"{head} {'x'.join(map(str, shape))}" for head, shape in teacher.heads.items())
    yield Finding(
        f"teacher {name}", "ok", f"its weights are there, loaded in {duration(perf_counter() - began)}: {heads}"
    )
    for note in teacher.notes:
        yield Finding(f"teacher {name}", "warning", note, "see docs/teachers.md")


def _student(params: Params, project: Project, name: str) -> Iterator[Finding]:
    """Build a student as a training does, with its pretrained weights if it starts from any."""
    where = f"students.{name}"
    reads = kind_of(*params.plugin("students", where))
    if reads == "features":
        return  # those of its teachers, which may not be extracted yet; it has no weights of its own
    data = Dataset.open(project.data) if project.data.exists() else None
    # Settings may have changed since, to a source of other rows.
    if data is None or reads != (data.kind if len(parts_of(data.kind)) == 1 else "pair"):
        advice = "run `aft prepare`, and then this again"
        yield Finding(f"student {name}", "warning", "not built, as it learns from the prepared data", advice)
        return
    began = perf_counter()
    student = student_blueprint(params.section(where), f"{params.source}: {where}", data, data.split(0).train).build()
    parameters = sum(parameter.numel() for parameter in student.parameters())
    found = f"built in {duration(perf_counter() - began)}: {count(parameters, 'parameter')}"
    yield Finding(f"student {name}", "ok", found)


def _lengths(name: str, teacher: Teacher, seen: _Seen) -> Iterator[Finding]:
    """How many texts a teacher cuts."""
    if teacher.longest is None or not seen.texts:
        return
    lengths = []
    for text in seen.texts:
        try:
            lengths.append(teacher.cost(teacher.transform(text)))
        except ValueError:  # counted among the unreadable rows
            continue
    if not lengths:
        return
    cut = sum(length >= teacher.longest for length in lengths) / len(lengths)
    middle, high = (int(np.quantile(lengths, share)) for share in (0.5, 0.95))
    found = f"texts have {count(middle, 'token')}, 95 % of them up to {high:,}; max_length {teacher.longest:,}"
    if cut > CUT:
        advice = "raise max_length if the model has more positions, or shorten the texts"
        yield Finding(f"teacher {name}", "warning", f"{found} cuts {cut:.0%} of them", advice)
    else:
        yield Finding(f"teacher {name}", "ok", f"{found} cuts {cut:.0%}")


def _disk(params: Params, project: Project, teachers: dict[str, Teacher], seen: _Seen) -> Iterator[Finding]:
    settings, wanted, parts = params.read(ExtractSettings, "extract"), 0, []
    data = Dataset.open(project.data) if project.data.exists() else None
    for name, teacher in teachers.items():
        views = teacher_views(params, name)
        times = 1 + (views.count if views else 0) if data is None else missing_views(project, name, data, views)
        row_bytes = sum(head.row_bytes for head in stored_heads(teacher, settings).values())
        more = times * (seen.rows if data is None else len(data)) * row_bytes
        wanted += more
        if more:
            parts.append(f"{name} {size(more)}")
    free = shutil.disk_usage(project.root).free
    features = f"features to extract: {listed(parts)}"
    if place := place_of_features(params):
        try:
            writable(place)
            yield Finding("object storage", "ok", f"{place} can be written; {features}")
        except UserError as error:
            yield Finding("object storage", "problem", str(error))
        wanted, found = 0, f"{size(free)} free"
    else:
        found = f"{size(free)} free; {features}"
    if wanted > free:
        advice = "free some space, keep fewer heads or views, or set extract.dtype to float16 or int8"
        yield Finding("disk", "problem", found, advice)
    elif free - wanted < LITTLE_DISK:
        yield Finding("disk", "warning", found, "free some space")
    else:
        yield Finding("disk", "ok", found)
    if not os.access(project.root, os.W_OK):
        yield Finding("disk", "problem", f"{project.root.absolute()} cannot be written", "check who owns it")
