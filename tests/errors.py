"""What bad input gets: one table of everything that may be wrong, how to make it so, and the line that answers.

`tests/test_errors.py` runs every row as a user types it; `python -m tests.errors > docs/errors.md` writes the page.
A row is added here and nowhere else.
"""

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

Change = Callable[[Path], None]
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
                "not valid YAML: the key `steps` is there twice <where>",
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
        "-S runs.both={student: a, student: b}: the value: not valid YAML: the key `student` is there twice <where>",
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
        "probes/wise/pooled/0/linear.npy: cannot be read (No such file or directory); run `aft probe wise` again",
    ),
    Case(
        "Damaged files",
        "a number of a record that was edited",
        edit("probes/wise/pooled/probe.json", source="loud"),
        "join",
        "probes/wise/pooled/probe.json: damaged, or changed by hand (its checksum is another); "
        "run `aft probe wise` again",
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
