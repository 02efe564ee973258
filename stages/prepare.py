"""Stage `prepare`: a source of data -> data/, the prepared copy with its row ids, digest and splits."""

from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Copy the data, drop duplicates, make the splits.

    Checks all of params.yaml first, then reads the source and writes data/.
    """
    from pipeline.checks import check_params
    from pipeline.data import PrepareSettings, prepare

    loaded = command.settings(params, overrides)
    check_params(loaded)
    with command.log("prepare") as log:
        prepared = prepare(loaded.read(PrepareSettings, "dataset"), command.PROJECT.data)
        log.rows = prepared.rows
    command.show(prepared, as_json)


if __name__ == "__main__":
    command.single(main)
