"""Stage `evaluate`: runs/<run>/ -> evaluations/<run>.json, its test scores."""

from stages import command, entry


def main(
    run: command.Run,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Test one run's students.

    Its teachers' probes are scored on the same rows.
    """
    from pipeline.machine import Machine
    from pipeline.training import evaluate

    loaded = command.settings(params, overrides)
    command.note_changes(loaded, command.teachers_of(loaded, run), runs=[run])
    with command.alone("evaluate", run), command.log("evaluate", run) as log:
        log.device = loaded.read(Machine, "machine").device_name()
        evaluation = evaluate(run, loaded)
    command.show(evaluation, as_json)


if __name__ == "__main__":
    entry.single(main)
