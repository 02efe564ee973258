"""Stage `join`: stores and probes -> bundles/run/<run>.json, what the result of each run depends on."""

from stages import command, entry


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Write what each run depends on.

    Checks that stores, probes and dataset belong together; writes a bundle per run.
    """
    from pipeline.runs import join

    loaded = command.settings(params, overrides)
    command.note_changes(loaded, command.teachers_of(loaded))
    with command.alone("join"):
        joined = join(loaded, command.PROJECT)
    command.show(joined, as_json)


if __name__ == "__main__":
    entry.single(main)
