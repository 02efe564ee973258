"""Stage `probe`: one teacher's features and the labels -> probes/<teacher>/, the probes and their outputs."""

from stages import command, entry


def main(
    teacher: command.Teacher,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Fit probes on a teacher's features.

    One for each head with a vector per row and each split. They are fitted on labelled training rows only.
    """
    from pipeline.changed import settings_of
    from pipeline.params import defaults
    from pipeline.probing import ProbeSettings, probe

    loaded, project = command.settings(params, overrides), command.PROJECT
    settings = loaded.read(ProbeSettings, "probe")
    loaded.section(f"teachers.{teacher}")
    command.note_changes(loaded, [teacher], "probe")
    with command.alone("probe", teacher), command.log("probe", teacher) as log:
        log.settings, log.defaults = settings_of("probe", teacher, loaded), defaults(ProbeSettings)
        result = probe(teacher, settings, project)
    command.show(result, as_json)


if __name__ == "__main__":
    entry.single(main)
