"""Stage `join`: stores and probes -> bundles/<run>.json, what each run stands on."""

from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Write what each run stands on.

    Checks that stores, probes and dataset belong together; writes a bundle per run.
    """
    from pipeline.runs.bundle import join

    command.show(join(command.settings(params, overrides)), as_json)


if __name__ == "__main__":
    command.single(main)
