"""Stage `extract`: data/ and one teacher -> features/<teacher>.zarr; continues after an interruption."""

from typing import Annotated

import typer

from stages import command


def main(
    teacher: command.Teacher,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few batches, and say what it would cost; keep nothing.")
    ] = False,
    as_json: command.Json = False,
) -> None:
    """Run one frozen teacher over the data, once.

    Writes its features to features/<teacher>.zarr; continues after an interruption.
    """
    from pipeline.data import Dataset
    from pipeline.extraction import ExtractSettings, extract, load_teacher, place_of_features
    from pipeline.machine import Machine
    from pipeline.store import FeatureStore, Pointer, stand_for
    from pipeline.views import teacher_views

    loaded, project = command.settings(params, overrides), command.PROJECT
    if dry_run:
        from pipeline.estimate import estimate

        command.show(estimate(teacher, loaded, project), as_json)
        return
    folder, place = project.store(teacher), place_of_features(loaded)
    settings, machine = loaded.read(ExtractSettings, "extract"), loaded.read(Machine, "machine")
    views = teacher_views(loaded, teacher)
    data = Dataset.open(project.data)
    with command.log("extract", teacher) as log:
        log.device = machine.device_name()

        def done(written: int, reused: int) -> None:
            log.rows, log.continued = written, reused > 0
            log.save()

        model, data = load_teacher(loaded, teacher, data)
        stand_for(folder, place and f"{place}/{teacher}.zarr")
        extraction = extract(data, model, folder, settings, machine, f"extract {teacher}", command.say, done, views)
        done(extraction.written, extraction.reused)
        digest = FeatureStore.open(pointer.url if (pointer := Pointer.of(folder)) else folder).content_digest
        if pointer:
            Pointer(pointer.url, digest).write(folder)
    command.write_digest(project.store_digest(teacher), digest)
    command.show(extraction, as_json)


if __name__ == "__main__":
    command.single(main)
