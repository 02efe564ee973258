"""Which overrides a command takes: `-S` of a setting that it would not read is refused."""

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from pipeline.errors import UserError, listed
from pipeline.params import NAMED, SECTIONS, Params
from stages.command import settings

READS = {
    "prepare": ("dataset",),
    "extract": ("extract", "teachers"),
    "probe": ("probe",),
    "assess": ("assess", "probe", "students", "teachers", "runs"),
    "join": ("runs", "students", "teachers", "sweep"),
    "train": ("runs", "students", "train"),
    "sweep": ("sweep", "runs", "students", "train", "probe"),
    "evaluate": (),
    "export": (),
    "compare": (),
    "cost": ("extract", "teachers"),
    "replay": ("runs", "students", "train"),
}
"""The sections that a command reads besides `machine`, for commands that take the rest from files of earlier stages.

Other commands may read all of params.yaml.
"""


class Command(TyperCommand):
    """A command that refuses overrides which it would ignore. `aft run` passes all to all stages, past this."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            UserError: an override is of a section that only other stages read, or of another run, teacher, student or
                sweep than the one that was named.
        """
        overrides = ctx.params.get("overrides") or ()
        name = str(self.name)
        for override in overrides if name in READS else ():
            section, _ = _place(override)
            if section in SECTIONS and section not in (*READS[name], "machine"):
                readers = " or ".join([f"`aft {stage}`" for stage, read in READS.items() if section in read][:3])
                raise UserError(
                    f"-S {override}: `aft {name}` does not read `{section}`; pass it to {readers} and run the stages "
                    "after that, or to `aft run --direct`, which runs all"
                )
        if any(section in NAMED for section, _ in map(_place, overrides)):
            read = _names_read(name, ctx.params, settings(ctx.params["params"], overrides))
            for override in overrides:
                section, key = _place(override)
                if section in read and key not in read[section]:
                    names = listed([f"`{section}.{each}`" for each in sorted(read[section])])
                    raise UserError(
                        f"-S {override}: `aft {name}` reads {names} here, and not `{section}.{key}`; drop it, or "
                        "correct the name"
                    )
        return super().invoke(ctx)


def _place(override: str) -> tuple[str, str]:
    """The section that an override is of, and the key in it."""
    section, _, rest = override.partition("=")[0].strip().partition(".")
    return section, rest.partition(".")[0]


def _names_read(command: str, given: Mapping[str, Any], params: Params) -> dict[str, set[str]]:
    """By section, the names in it that a command reads; sections that it may read all of are left out.

    Raises:
        UserError: what was named is not there, or is wrong.
    """
    from pipeline.runs import every_point, read_run

    if command in ("extract", "plan"):
        return {"teachers": {given["teacher"]}}
    if command == "sweep" and given["name"]:
        points = list(every_point(params, given["name"]))
        runs = {point.values["run"] for point in points if "run" in point.values}
        return {"sweep": {given["name"]}, "runs": runs, "students": {point.section["student"] for point in points}}
    if not (run := given.get("run")) or command not in READS or "/" in run:
        return {}
    named = read_run(params, run)
    teachers = {source.teacher for source in named.reads}
    return {"runs": {run}, "students": {named.student}, "teachers": teachers}
