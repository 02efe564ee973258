"""Loading a teacher of params.yaml for a dataset."""

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.extraction.settings import ExtractSettings
from pipeline.machine import Machine, is_out_of_memory
from pipeline.params import BESIDES, Params
from pipeline.teachers import Teacher


def teacher_alone(params: Params, name: str) -> Teacher:
    """The teacher `name`, on the device of `machine`.

    Raises:
        UserError: it cannot be loaded, or does not fit the memory.
    """
    settings, machine = params.read(ExtractSettings, "extract"), params.read(Machine, "machine")
    family, spec = params.plugin("teachers", f"teachers.{name}", also=BESIDES)
    device = machine.torch_device()
    try:
        teacher: Teacher = family.load(spec, settings.precision, device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{params.source}: teachers.{name}: does not fit the memory of {device}; choose a smaller model, "
            "`precision: bfloat16` in `extract`, or another machine.device"
        ) from None
    return teacher


def load_teacher(params: Params, name: str, data: Dataset) -> tuple[Teacher, Dataset]:
    """The teacher `name`, on the device of `machine`, and what it sees of a dataset: of pairs, one side.

    Raises:
        UserError: it cannot be loaded, or the dataset does not have what it reads.
    """
    teacher = teacher_alone(params, name)
    reads = params.section(f"teachers.{name}").get("reads")
    seen = data.seen_by(teacher.kind, reads, f"{params.source}: teachers.{name}")
    teacher.name_classes(data.task)
    return teacher, seen


def reload_teacher(params: Params, name: str, data: Dataset) -> Teacher:
    """The teacher `name` alone, as other processes load it; arguments and errors as of `load_teacher`."""
    return load_teacher(params, name, data)[0]
