"""Stage `prepare`: a source of data -> data/, the canonical copy with its row ids, digest and splits."""

from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Copy the data, without twins, splits drawn.

    Reads the source, drops duplicates, draws the splits and writes data/.
    """
    from pipeline.data.preparation import PrepareSettings, prepare

    settings = command.settings(params, overrides).read(PrepareSettings, "dataset")
    command.show(prepare(settings, command.DATA), as_json)


if __name__ == "__main__":
    command.single(main)
