"""Tools for feature stores: `aft features ls | info | verify | diff | copy | pull | gc | export | import`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import count
from stages import command

if TYPE_CHECKING:
    from pipeline.store import verification

app = typer.Typer(help="Inspect, verify, clean, export and import feature stores.", no_args_is_help=True)

Store = Annotated[str, typer.Argument(help="A store, such as features/minilm.zarr, or its URL.")]
HeadName = Annotated[str | None, typer.Option("--head", help="Which head, if the store has several.")]
Folder = Annotated[str, typer.Argument(help="The folder of the stores, or its URL.")]
Data = Annotated[Path | None, typer.Option("--data", readable=False, help="The prepared dataset of the rows.")]


@app.command("ls")
def list_stores(folder: Folder = str(command.FEATURES), as_json: command.Json = False) -> None:
    """List the stores in a folder."""
    from pipeline.store import inspection

    command.show(inspection.list_stores(folder), as_json)


@app.command()
def info(store: Store, as_json: command.Json = False) -> None:
    """Show one store: rows, heads, recipe, bytes per row, and statistics of its features."""
    from pipeline.store import inspection

    command.show(inspection.describe(store), as_json)


@app.command()
def verify(
    store: Store,
    recompute: Annotated[int, typer.Option(help="Run the teacher on this many random rows and compare.", min=0)] = 0,
    teacher: Annotated[str | None, typer.Option(help="Its key in params.yaml; by default the store's name.")] = None,
    head: HeadName = None,
    tolerance: Annotated[float, typer.Option(help="Largest difference of the smallest cosine from 1.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Seed for the choice of rows.")] = 0,
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Read every byte of a store; exit code 1 if anything differs from what was written."""
    from dataclasses import replace

    from pipeline.store import verification

    found = verification.verify(store)
    if recompute and not found.faults:
        loaded = command.settings(params, overrides)
        found = replace(
            found, comparison=_again(store, head, loaded, teacher or Path(store).stem, recompute, tolerance, seed)
        )
    command.show(found, as_json)
    if not found.sound:
        raise typer.Exit(1)


@app.command()
def diff(first: Store, second: Store, as_json: command.Json = False) -> None:
    """Compare two stores: recipe, rows, heads, and the features of shared rows."""
    from pipeline.store import inspection

    command.show(inspection.diff(first, second), as_json)


@app.command("copy")
def copy_store(
    store: Store,
    target: Annotated[str, typer.Argument(help="A new folder, or s3://, gs:// or az:// with BUCKET/PREFIX.")],
    as_json: command.Json = False,
) -> None:
    """Copy a store to object storage, from there, or to another folder; an interrupted copy continues."""
    from pipeline.store import copying

    command.show(copying.copy_store(store, target), as_json)


@app.command()
def pull(store: Store, as_json: command.Json = False) -> None:
    """Copy a store on object storage into this machine's cache, from which training reads it then."""
    from pipeline.store import copying

    command.show(copying.pull(store), as_json)


@app.command()
def gc(
    folder: Folder = str(command.FEATURES),
    delete: Annotated[bool, typer.Option("--delete", help="Delete them instead of only listing them.")] = False,
    as_json: command.Json = False,
) -> None:
    """List leftovers of interrupted work, with sizes; --delete deletes them.

    These are replaced features, locks and temporary files in stores that are not being written, raw copies of
    deleted stores of the folder that are not in use, and unfinished raw copies.
    """
    from pipeline.store import inspection
    from pipeline.verified import default_cache

    command.show(inspection.leftovers(folder, default_cache(), delete), as_json)


@app.command("export")
def export_features(
    store: Store,
    target: Annotated[
        Path, typer.Argument(readable=False, help="A file: .h5, .hdf5, .npy, .parquet, .pt or .safetensors.")
    ],
    head: HeadName = None,
    data: Data = None,
    split: Annotated[int, typer.Option(help="With --data and .pt: the split whose test rows become `test`.")] = 0,
) -> None:
    """Write a head's features, with their ids and recipe, in another format."""
    import numpy as np

    from pipeline.data import Dataset
    from pipeline.store import FeatureStore, interchange

    opened = FeatureStore.open(store)
    rows = parts = None
    if data is not None:
        prepared = Dataset.open(data)
        opened.check(prepared.digest, prepared.ids)
        test = prepared.split(split).test
        train = np.setdiff1d(np.arange(len(opened)), test)
        rows, parts = np.concatenate([train, test]), {"train": len(train), "test": len(test)}
    print(f"{count(len(opened), 'row')} -> {interchange.export(opened, target, head, rows, parts)}")


@app.command("import")
def import_features(
    sources: Annotated[
        list[Path], typer.Argument(readable=False, help="One file, or several, such as one .h5 per slide.")
    ],
    store: Annotated[Path, typer.Option("--store", readable=False, help="The store to make.")],
    head: Annotated[str | None, typer.Option("--head", help="The head's name in the store.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16, bfloat16, float32 or int8; by default as in the file.")
    ] = None,
    data: Data = None,
) -> None:
    """Make a store from features in another format. An interrupted import continues."""
    from pipeline.data import Dataset
    from pipeline.store import RowIndex, interchange

    prepared = None if data is None else Dataset.open(data)
    rows = None if prepared is None else RowIndex(prepared.ids, prepared.row_digests)
    digest = None if prepared is None else prepared.digest
    made = interchange.import_features(sources, store, head, dtype, rows, digest, say=command.say)  # type: ignore[arg-type]
    print(made)


def _again(
    path: str, head: str | None, params: Any, teacher: str, count: int, tolerance: float, seed: int
) -> "verification.Agreement":
    """Compare stored features of random rows with features that the teacher computes now."""
    import numpy as np

    from pipeline.data import Dataset
    from pipeline.errors import UserError
    from pipeline.extraction import load_teacher, recipe_of
    from pipeline.store import FeatureStore, differences, verification

    store, data = FeatureStore.open(path), Dataset.open(command.DATA)
    store.check(data.digest, data.ids)
    name = store.head_name(head)
    model, data = load_teacher(params, teacher, data)
    if changed := ", ".join(differences(dict(store.recipe), recipe_of(model, data))):
        raise UserError(
            f"{path}: teacher `{teacher}` has another recipe than the store ({changed}); pass its --teacher"
        )
    if name not in model.heads:
        raise UserError(f"{path}: teacher `{teacher}` has no head `{name}`; it has {', '.join(model.heads)}")
    if changed := ", ".join(differences(dict(store.heads[name].recipe or {}), dict(model.head_recipes.get(name, {})))):
        raise UserError(f"{path}: head `{name}` is of other settings ({changed}); run `aft extract {teacher}`")

    def fresh(rows: np.ndarray) -> np.ndarray:
        examples = [model.transform(content) for content in data.content(rows)]
        parts = [examples[at : at + 32] for at in range(0, len(examples), 32)]
        batches = ({k: v.to(model.device) for k, v in model.collate(part).items()} for part in parts)
        found = np.concatenate([model.forward(batch)[name].float().cpu().numpy() for batch in batches])
        return store.as_stored(found, name) if store.heads[name].largest else found

    rows = np.sort(np.random.default_rng(seed).permutation(len(store))[:count])
    return verification.compare(store.reader(name), fresh, rows, tolerance)
