"""Stage `probe`: one teacher's features and the labels -> probes/<teacher>/, what a probe makes of them."""

from stages import command


def main(
    teacher: command.Teacher,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Fit probes on a teacher's features.

    Of every head that is one vector per row. Uses the labels of the labelled training rows only, on every split.
    """
    from pipeline.probing import ProbeSettings, probe

    loaded, project = command.settings(params, overrides), command.PROJECT
    settings = loaded.read(ProbeSettings, "probe")
    loaded.section(f"teachers.{teacher}")
    with command.alone("probe", teacher), command.log("probe", teacher):
        result = probe(teacher, settings, project)
    command.show(result, as_json)


if __name__ == "__main__":
    command.single(main)
