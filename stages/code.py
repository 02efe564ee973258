"""Stage `code`: params.yaml and the library -> code.json, a digest of the code that each stage depends on."""

from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None) -> None:
    """Check params.yaml; write digests of the code.

    For DVC, which runs it first and every time: stages run again when their digest changes.
    """
    import json

    from pipeline.checks import check_params
    from pipeline.code import digests
    from pipeline.files import write_atomically

    loaded = command.settings(params, overrides)
    check_params(loaded)
    write_atomically(command.PROJECT.code, json.dumps(digests(loaded), indent=1) + "\n")


if __name__ == "__main__":
    command.single(main)
