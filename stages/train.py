"""Stage `train`: one run's bundle -> runs/<run>/, its students, curves and record."""

from stages import command, entry


def main(
    run: command.Run,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Train one run.

    Trains every seed and every candidate weight; the weight is chosen on validation rows. Under torchrun or accelerate
    launch, several processes train each student together.
    """
    from pipeline.changed import defaults_of_run, settings_of
    from pipeline.provenance import digest_files
    from pipeline.training import TrainSettings, follow, joined, train

    loaded, project = command.settings(params, overrides), command.PROJECT
    with joined() as group:
        if group.rank:
            follow(run, loaded, group, project)
            return
        command.note_changes(loaded, command.teachers_of(loaded, run))
        with command.log("train", run) as log, group.led():
            trained = train(run, loaded, project, command.say)
            log.trainings, log.device = trained.trained, trained.device
            log.settings = settings_of("train", run, loaded)
            log.defaults = defaults_of_run(loaded, run, TrainSettings)
    command.write_digest(project.run_digest(run), digest_files(project.run(run)))
    command.show(trained, as_json)
    command.say(f"to take its best student home: aft export {run} --output FOLDER")


if __name__ == "__main__":
    entry.single(main)
