"""All that commands import, and some of it late: imported once, before commands are forked, and not in each of them."""

import os

# Forked commands must find no threads, and two of them share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib.externals.loky  # noqa: F401
import onnx  # noqa: F401
import pandas  # noqa: F401
import timm  # noqa: F401
import torchvision  # noqa: F401
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertModel  # noqa: F401

import pipeline.datasets.arrays
import pipeline.datasets.hugging_face
import pipeline.datasets.image_folder
import pipeline.datasets.image_table
import pipeline.datasets.python
import pipeline.datasets.text_table
import pipeline.datasets.webdataset
import pipeline.engines.local
import pipeline.exports.native
import pipeline.extraction
import pipeline.methods.aft
import pipeline.probing
import pipeline.reporting
import pipeline.serving
import pipeline.store.interchange.h5
import pipeline.store.interchange.parquet
import pipeline.store.interchange.pt
import pipeline.store.interchange.safetensors
import pipeline.students.bag_of_words
import pipeline.students.compact_cnn
import pipeline.sweeping
import pipeline.teachers.features
import pipeline.teachers.transformers
import pipeline.training  # noqa: F401
