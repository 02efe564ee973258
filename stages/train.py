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
    from pipeline.provenance import digest_files
    from pipeline.training import train

    loaded, project = command.settings(params, overrides), command.PROJECT
    with command.log("train", run) as log:
        trained = train(run, loaded, project, command.say)
        log.trainings, log.device = trained.trainings - trained.found, trained.device
    # For DVC: the evaluation depends on this file. A dependency on the folder would stop `dvc repro --dry` where the
    # run is new and the folder is not there yet.
    digest = digest_files(project.run(run))
    write_atomically(project.run_digest(run), json.dumps({"run": digest}) + "\n")
    command.show(trained, as_json)


if __name__ == "__main__":
    command.single(main)
