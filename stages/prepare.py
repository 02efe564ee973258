"""Stage `prepare`: a source of data -> data/, the prepared copy with its row ids, digest and splits."""

from stages import command, entry


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Copy the data, drop duplicates, make the splits.

    Checks all of params.yaml first, then reads the source and writes data/.
    """
    from pipeline.checks import check_params, check_task
    from pipeline.data import Dataset, PrepareSettings, prepare
    from pipeline.provenance import digest_files, digest_of

    loaded, project = command.settings(params, overrides), command.PROJECT
    check_params(loaded)
    with command.alone("prepare"), command.log("prepare") as log:
        prepared = prepare(loaded.read(PrepareSettings, "dataset"), project.data)
        log.rows = prepared.rows
        data = Dataset.open(project.data)
        check_task(loaded, data.task.name)  # before anything expensive
        command.write_digest(project.content_digest, digest_of({"kind": data.kind, "content": data.digest}))
        command.write_digest(project.classes_digest, digest_of({"classes": list(data.task.classes)}))
        # The manifest holds the digest of the content.
        command.write_digest(project.data_digest, digest_files(project.data, ["manifest.json", "rows.parquet"]))
    command.show(prepared, as_json)


if __name__ == "__main__":
    entry.single(main)
