"""Stage `extract`: data/ and one teacher -> features/<teacher>.zarr; continues where an interrupted one stopped."""

from typing import Annotated

import typer

from stages import command


def main(
    teacher: Annotated[str, typer.Argument(help="A key of `teachers` in params.yaml.")],
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Run one frozen teacher over the data, once.

    Keeps what it says in features/<teacher>.zarr; resumes after an interruption.
    """
    from pipeline.data.dataset import Dataset
    from pipeline.extraction.extractor import ExtractSettings, extract
    from pipeline.machine import Machine

    loaded = command.settings(params, overrides)
    settings, machine = loaded.read(ExtractSettings, "extract"), loaded.read(Machine, "machine")
    family, spec = loaded.plugin("teachers", f"teachers.{teacher}")
    data = Dataset.open(command.DATA)
    model = family.load(spec, settings.precision, machine.torch_device())
    out = command.FEATURES / f"{teacher}.zarr"
    done = extract(data, model, out, settings, machine, name=f"extract {teacher}", say=command.say)
    command.show(done, as_json)


if __name__ == "__main__":
    command.single(main)
