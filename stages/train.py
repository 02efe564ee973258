"""Stage `train`: one run's bundle -> runs/<run>/, its students, curves and record."""

from typing import Annotated

import typer

from stages import command


def main(
    run: Annotated[str, typer.Argument(help="A key of `runs` in params.yaml.")],
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Train one run.

    Trains every seed and every candidate weight; the weight is chosen on validation rows.
    """
    import json

    from pipeline.files import write_atomically
    from pipeline.machine import Machine
    from pipeline.provenance import digest_files
    from pipeline.training.sweep import train

    loaded, project = command.settings(params, overrides), command.PROJECT
    with command.log("train", run) as log:
        log.device = loaded.read(Machine, "machine").device_name()
        trained = train(run, loaded, say=command.say)
        log.trainings = trained.trainings
    digest = digest_files(project.run(run))
    write_atomically(project.run_digest(run), json.dumps({"students_and_record": digest}) + "\n")
    command.show(trained, as_json)


if __name__ == "__main__":
    command.single(main)
