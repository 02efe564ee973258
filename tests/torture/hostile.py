"""Input from elsewhere with something wrong in it: tables, settings, models, images, feature stores, imports."""

import io
import multiprocessing
import os
import resource
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.store.interchange import suffixes
from tests.memory import at_most
from tests.nearly_valid import PROPERTIES
from tests.store.hostile import STORES, rewrite

from .bench import INPUTS, LIMIT, Bench, check, remove, run
from .made import EXPORT, SOURCES, sign_again, use, write_rows

ODD = (None, True, -1, 0, 0.5, 1e300, 10**12, 10**30, "", "x" * 10_000, "\x1b[2J", "../../up", [], {}, [[]], {"": {}})
"""Values that may stand where another is meant."""

ON_STORES = (
    *("features ls features", "features info features/wise.zarr", "features verify features/wise.zarr"),
    *("features diff features/wise.zarr features/loud.zarr", "features gc features", "features gc features --delete"),
    *("features export features/wise.zarr out.npy", "features import sound.npy --store features/wise.zarr"),
    *("extract wise", "probe wise", "assess", "join", "train aft", "evaluate aft", "check", "report"),
)
"""All commands that open a store."""

MEMORY = 2 << 30
"""Bytes that a command may map more than this process has: its input is of kilobytes."""


def hostile_store(random: Random, bench: Bench) -> tuple[str, str]:
    """A feature store from elsewhere, under some of the commands that open one, in any order."""
    project = bench.copy()
    np.save(project / "sound.npy", np.ones((3, 4), np.float32))
    store = project / "features" / "wise.zarr"
    if random.random() < 0.6:
        what = random.choice(list(STORES))
        STORES[what](store)
    else:
        what = f"a mutated {_mutated_store(random, store)}"
    lines = random.sample(ON_STORES, 5)
    codes = {run(line, project, (0, 1, 2), _bounded()).code for line in lines}
    for path in (store, project / "features" / "wise.json"):
        remove_input(path)
    (project / "sound.npy").unlink()
    (project / "out.npy").unlink(missing_ok=True)
    bench.finish(project)
    bench.same(project)
    refused = "refused in one line" if 2 in codes else "taken as it is, or a fault that `verify` lists"
    return f"a hostile store ({what.split(':')[0]})", f"{refused}; extracted again, the same results"


def hostile_import(random: Random, bench: Bench) -> tuple[str, str]:
    """Files of features with random changes, and stores where the import should go."""
    project = bench.copy()
    suffix = random.choice(suffixes())
    shutil.copytree(_exports(bench), project / "exports")
    target, name = "imported.zarr", f"exports/features{suffix}"
    into_hostile = random.random() < 0.2
    if into_hostile:
        shutil.copytree(project / "features" / "wise.zarr", project / target)
        STORES[random.choice(list(STORES))](project / target)
    else:
        sidecar = random.choice([project / name, project / "exports" / "features.rows.npz"])
        _mutate(random, sidecar if suffix == ".npy" else project / name)
    code = run(f"features import {name} --store {target}", project, (0, 2), _bounded()).code
    bench.same(project)
    what = f"an import into a hostile store ({suffix})" if into_hostile else f"a mutated {suffix} file to import"
    return what, "refused in one line" if code else "taken as it is"


def hostile_table(random: Random, bench: Bench) -> tuple[str, str]:
    """A table of texts with random changes."""
    project = bench.copy()
    _mutate(random, project / "raw" / "reviews.csv")
    return "a mutated table", _through(bench, project, ["prepare", "extract loud"])


def hostile_params(random: Random, bench: Bench) -> tuple[str, str]:
    """A params.yaml with random changes; of no digits, because a million steps are no fault."""
    project = bench.copy()
    _mutate(random, project / "params.yaml", digits=False)
    return "a mutated params.yaml", _through(bench, project, random.sample(["code", "prepare", "join", "assess"], 2))


def hostile_checkpoint(random: Random, bench: Bench) -> tuple[str, str]:
    """A model with random changes in one of its files."""
    project = bench.copy()
    remove(project, "extract loud")
    file = random.choice(sorted((project / "models" / "loud").iterdir()))
    if random.random() < 0.5:
        _mutate(random, file, digits=file.suffix == ".safetensors")
    else:
        damaged(random, file)
    return f"a mutated {file.name}", _through(bench, project, ["extract loud"])


def hostile_images(random: Random, bench: Bench) -> tuple[str, str]:
    """A folder of images, some of which have random changes."""
    project = bench.copy()
    for number in range(24):
        folder = project / "raw" / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        pixels = np.frombuffer(random.randbytes(16 * 16 * 3), np.uint8).reshape(16, 16, 3)
        format = random.choice(["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
        Image.fromarray(pixels).save(buffer, format)
        (folder / f"{number}.{format.lower()}").write_bytes(buffer.getvalue())
    use(project, {"family": "image_folder", "path": "raw/images"}, random.choice([0.0, 0.9]))
    run("prepare", project)
    for file in sorted((project / "raw" / "images").rglob("*.*"))[::4]:
        _mutate(random, file)
    return "mutated images", _through(bench, project, ["prepare"])


def hostile_source(random: Random, bench: Bench) -> tuple[str, str]:
    """Shards, folders and arrays of other tools with random changes."""
    project = bench.copy()
    family = random.choice(list(SOURCES))
    source, file = SOURCES[family](project / "raw")
    use(project, source, random.choice([0.0, 0.9]))
    run("prepare", project)
    if file.is_dir():
        file = random.choice(sorted(path for path in file.rglob("*") if path.is_file()))
    if random.random() < 0.8:
        _mutate(random, file)
    else:
        damaged(random, file)
    return f"a mutated source ({family})", _through(bench, project, ["prepare"])


def hostile_prediction(random: Random, bench: Bench) -> tuple[str, str]:
    """New rows with random changes, and an exported student in which a file was changed and signed again."""
    project, exported = bench.copy(), bench.folder / "exported"
    if not exported.exists():
        run(f"export aft --output {exported}", bench.reference)
    shutil.copytree(exported, project / "student")
    table = write_rows(project / "raw", random.choice(["csv", "jsonl", "json", "txt", "parquet", "arrow"]))
    target = random.choice([table, table, *sorted((project / "student").iterdir())])
    if random.random() < 0.8:
        _mutate(random, target)
    else:
        damaged(random, target)
    if target != table and target.name != EXPORT and target.is_file():
        sign_again(project / "student")
    output = random.choice(["out.csv", "out.parquet", "-"])
    code = run(f"predict student {table} --output {output}", project, (0, 1, 2), _bounded()).code
    for name in ("out.csv", "out.parquet"):
        check(not (project / f"{name}.partial").exists(), "an unfinished file was left")
    bench.same(project)
    what = f"new rows ({table.suffix})" if target == table else f"an export ({target.name})"
    return f"mutated {what}", ("predicted", "predicted, some rows listed", "refused in one line")[code]


def nearly_sound(random: Random, bench: Bench) -> tuple[str, str]:
    """Input of one kind that hypothesis makes."""
    name, number, said = random.choice(list(PROPERTIES)), random.getrandbits(32), bench.folder / "said"
    process = multiprocessing.get_context("fork").Process(target=_examples, args=(name, number, said))
    process.start()
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
    check(process.exitcode == 0, f"{name}, of seed {number}: {process.exitcode}\n{said.read_text()[-3000:]}")
    return f"{name} that is nearly sound, {EXAMPLES} times", "read, or refused in one line"


EXAMPLES = 200


def _examples(name: str, number: int, said: Path) -> None:
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)

    @seed(number)
    @settings(max_examples=EXAMPLES, database=None, deadline=None)
    @given(data=st.data())
    def all_hold(data: st.DataObject) -> None:
        PROPERTIES[name](said.parent, data)

    with at_most(MEMORY):
        all_hold()


def _bounded() -> dict[int, int]:
    """A limit on the memory that a command may map."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return {resource.RLIMIT_AS: mapped + MEMORY}


def _exports(bench: Bench) -> Path:
    """A folder with the features of the sound project in every format."""
    folder = bench.folder / "exports"
    for suffix in suffixes():
        if not (folder / f"features{suffix}").exists():
            line = f"features export features/wise.zarr {folder}/features{suffix}"
            run(line, bench.reference)
    return folder


def _mutated_store(random: Random, store: Path) -> str:
    """Change a file of a store: its bytes; or, in a record, one value, which is then signed. Returns its name."""
    file = random.choice(sorted(path for path in store.rglob("*") if path.is_file() and "locks" not in path.parts))
    if file.suffix == ".json" and random.random() < 0.7:
        rewrite(file, lambda record: _edit(random, record))
    else:
        _mutate(random, file)
    return file.relative_to(store).as_posix()


def _edit(random: Random, record: Any) -> None:
    """Put an odd value into one place of a record, or take it away."""
    key = random.choice(list(record) if isinstance(record, dict) else range(len(record)))
    if isinstance(record[key], dict | list) and record[key] and random.random() < 0.8:
        _edit(random, record[key])
    elif random.random() < 0.2:
        del record[key]
    else:
        record[key] = random.choice(ODD)


def _through(bench: Bench, project: Path, stages: list[str]) -> str:
    """Run stages on hostile input, then the sound input again."""
    refused = False
    for stage in stages:
        refused |= run(stage, project, (0, 2), _bounded()).code == 2
    for name in INPUTS:
        remove_input(project / name)
        source = bench.reference / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, project / name)
    bench.finish(project)
    bench.same(project)
    return f"{'refused in one line' if refused else 'taken as it is'}; with the sound input, the same results"


def remove_input(path: Path) -> None:
    """Delete a file, a folder or a link of the input."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def damaged(random: Random, file: Path) -> str:
    """What a failing disk, a broken copy or another program makes of a file."""
    content = bytearray(file.read_bytes())
    at = random.randrange(max(1, len(content)))
    how = random.choice(["a flipped bit", "zeros", "a cut", "nothing left", "a missing file", "a pipe", "a folder"])
    file.unlink()
    match how:
        case "a flipped bit" if content:
            content[at] ^= 1 << random.randrange(8)
        case "zeros":
            content[at : at + 64] = bytes(len(content[at : at + 64]))
        case "a cut":
            del content[at:]
        case "nothing left":
            content.clear()
        case "a missing file":
            return how
        case "a pipe":
            os.mkfifo(file)
            return how
        case "a folder":
            file.mkdir()
            return how
    file.write_bytes(content)
    return how


TOKENS = [
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\n", b"\t", b"\x1b[2J", b"nan", b"null", b"../", b"=1+1"),
    *(b'"', b"'", b"{", b"}", b"[", b"]", b":", b",", b"-", b"&a ", b"*a", b"!!python/object:os.x ", b"`touch pwned`"),
]
"""What a reader may trip over."""


def _mutate(random: Random, file: Path, digits: bool = True) -> None:
    """Change, repeat, remove and insert bytes in a few places; with `digits` False no digit is changed or made."""
    content = bytearray(file.read_bytes())
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        at = random.randrange(len(content) + 1)
        span = content[at : at + random.randint(1, 40)]
        if not digits and any(48 <= byte < 58 for byte in span):
            span = content[at:at]
        match random.randrange(4):
            case 0:
                content[at : at + len(span)] = b""
            case 1:
                content[at:at] = span * random.randint(1, 3)
            case 2:
                content[at:at] = random.choice(TOKENS)
            case 3 if span:
                byte = random.randrange(256)
                content[at] = byte if digits or not 48 <= byte < 58 else 0
    file.write_bytes(content)
