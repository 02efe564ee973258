"""Stage `extract`: data/ and one teacher -> features/<teacher>.zarr; continues after an interruption."""

import os
from typing import Annotated

import typer

from pipeline.errors import UserError
from stages import command, entry

RANK, WORLD = ["RANK", "SLURM_PROCID"], ["WORLD_SIZE", "SLURM_NTASKS"]
LOCAL_RANK = "LOCAL_RANK", "SLURM_LOCALID"
"""Variables in which torchrun and SLURM number the processes that they start."""


def main(
    teacher: command.Teacher,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few batches, and say what it would cost; keep nothing.")
    ] = False,
    engine: command.Engine = None,
    address: command.Address = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes on the cluster; as many as there is room for if left out."),
    ] = None,
    rank: Annotated[
        int, typer.Option("--rank", min=0, envvar=RANK, help="Of several such commands at once, which one this is.")
    ] = 0,
    world: Annotated[int, typer.Option("--world", min=1, envvar=WORLD, help="How many these are.")] = 1,
    as_json: command.Json = False,
) -> None:
    """Run one frozen teacher over the data, once.

    Writes its features to features/<teacher>.zarr; continues after an interruption.
    """
    from functools import partial

    from pipeline.changed import defaults_of_teacher, settings_of
    from pipeline.data import Dataset
    from pipeline.extraction import ExtractSettings, extract, load_teacher, place_of_features, reload_teacher
    from pipeline.machine import Machine
    from pipeline.params import BESIDES
    from pipeline.store import FeatureStore, Pointer, stand_for
    from pipeline.views import teacher_views

    loaded, project = command.settings(params, overrides), command.PROJECT
    if rank >= world:
        raise UserError(f"--rank {rank}: ranks are numbered from 0, so of --world {world} the last is {world - 1}")
    command.on_engine(loaded, engine, address, workers)
    if dry_run:
        from pipeline.estimate import estimate

        command.show(estimate(teacher, loaded, project), as_json)
        return
    folder, place = project.store(teacher), place_of_features(loaded)
    settings, machine = loaded.read(ExtractSettings, "extract"), loaded.read(Machine, "machine")
    if world > 1:
        machine = machine.of_rank(int(next(filter(None, map(os.environ.get, LOCAL_RANK)), rank)))
        loaded.values["machine"] = loaded.section("machine") | {"device": machine.device}
    views = teacher_views(loaded, teacher)
    command.note_changes(loaded, [teacher], "extract")
    data = Dataset.open(project.data)
    with command.log("extract", f"{teacher}-rank-{rank}" if rank else teacher) as log:
        # On a cluster, devices are those of its machines.
        log.device = machine.device_name() if machine.engine == "local" else machine.engine
        log.settings = settings_of("extract", teacher, loaded)
        family, _ = loaded.plugin("teachers", f"teachers.{teacher}", also=BESIDES)
        log.defaults = defaults_of_teacher(loaded, teacher, family.Settings, ExtractSettings)

        def done(written: int, reused: int) -> None:
            log.rows, log.continued = written, reused > 0
            log.save()

        load = partial(reload_teacher, loaded, teacher, data)
        model, data = load_teacher(loaded, teacher, data)
        stand_for(folder, place and f"{place}/{teacher}.zarr")
        extraction = extract(
            data, model, folder, settings, machine, f"extract {teacher}", command.say, done, views, load, rank, world
        )
        done(extraction.written, extraction.reused)
        digest = FeatureStore.open(pointer.url if (pointer := Pointer.of(folder)) else folder).content_digest
        if pointer:
            Pointer(pointer.url, digest).write(folder)
    command.write_digest(project.store_digest(teacher), digest)
    command.show(extraction, as_json)


if __name__ == "__main__":
    entry.single(main)
