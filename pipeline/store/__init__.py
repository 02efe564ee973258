"""The feature store: features of a dataset's rows, computed once, verifiable, and read at memory speed.

    from pipeline.store import FeatureStore

    store = FeatureStore.open("features/minilm.zarr")
    store.check(dataset=digest)
    features = store[rows]                      # numpy [n, 384]
    read = store.reader("pooled")               # for a training loop: read(rows, out=buffer)

A store is plain Zarr v3: any Zarr reader opens it. This package adds what Zarr lacks: a record of which shards are
complete, of which rows and under which recipe, and reads at the speed of a memory map. It only needs numpy; zarr is
imported for compressed heads. Tools around stores are in the modules `cache`, `copying`, `inspection`, `interchange`
and `verification`, which are imported when needed.
"""

from pipeline.store.changes import differences
from pipeline.store.format import Dtype, Head, Shard, default_shard_rows
from pipeline.store.memory import available_memory
from pipeline.store.reader import Reader, Together
from pipeline.store.remote import Pointer, stand_for
from pipeline.store.rows import RowIndex
from pipeline.store.source import SourceFeatures
from pipeline.store.store import FeatureStore
from pipeline.store.values import NotFinite, as_stored
from pipeline.store.writer import StoreWriter, Widened, is_shared, writable

__all__ = [
    "Dtype",
    "FeatureStore",
    "Head",
    "NotFinite",
    "Pointer",
    "Reader",
    "RowIndex",
    "Shard",
    "SourceFeatures",
    "StoreWriter",
    "Together",
    "Widened",
    "as_stored",
    "available_memory",
    "cache",
    "copying",
    "default_shard_rows",
    "differences",
    "inspection",
    "interchange",
    "is_shared",
    "stand_for",
    "verification",
    "writable",
]
