"""Shared by formats of text encoders: the encoder and its tokenizer in the layout of transformers."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pipeline.pretrained.transformers import quiet
from pipeline.students import Blueprint, Scaled, Student


def refused(blueprint: Blueprint) -> str:
    """Why a student is not an encoder of transformers; empty if it is."""
    if blueprint.family != "transformers":
        return "transformers has no such model"
    # A folder with only the encoder would be read as the whole model.
    whole = blueprint.fitted["config"].get("is_encoder_decoder")
    return "transformers reads no folder of the encoder of an encoder-decoder alone" if whole else ""


def encoder(student: Student) -> Any:
    """The encoder of a student, without the scale of its labels."""
    inner: Any = student.student if isinstance(student, Scaled) else student
    return inner.body.model


def head(student: Student) -> tuple[Tensor, Tensor]:
    """Weight [C, d] and bias [C] of the last layer, with the scale of the labels applied."""
    inner: Any = student.student if isinstance(student, Scaled) else student
    weight, bias = inner.head.weight.detach(), inner.head.bias.detach()
    if isinstance(student, Scaled):
        return weight * student.scale, bias * student.scale + student.shift
    return weight.clone(), bias.clone()


def save_encoder(folder: Path, blueprint: Blueprint, student: Student) -> None:
    """config.json, model.safetensors, and the tokenizer's files."""
    with quiet():
        encoder(student).save_pretrained(folder)
    fitted = blueprint.fitted
    library = Tokenizer.from_str(fitted["tokenizer"])
    pad = library.id_to_token(fitted["pad"]) if fitted["pad"] is not None else None
    PreTrainedTokenizerFast(
        tokenizer_object=library, pad_token=pad, model_max_length=fitted["max_length"]
    ).save_pretrained(folder)


def device_batch(batch: Any, device: torch.device) -> dict[str, Tensor]:
    """A batch of the student's `Preprocessing` as keyword arguments for transformers."""
    return {"input_ids": batch[0].to(device), "attention_mask": batch[1].long().to(device)}
