"""Loading a teacher of params.yaml for a dataset."""

from pipeline.data import Dataset
from pipeline.extraction.settings import ExtractSettings
from pipeline.machine import Machine
from pipeline.params import BESIDES, Params
from pipeline.teachers import Teacher


def load_teacher(params: Params, name: str, data: Dataset) -> tuple[Teacher, Dataset]:
    """The teacher `name`, on the device of `machine`, and what it sees of a dataset: of pairs, one side.

    Raises:
        UserError: it cannot be loaded, or the dataset does not have what it reads.
    """
    settings, machine = params.read(ExtractSettings, "extract"), params.read(Machine, "machine")
    family, spec = params.plugin("teachers", f"teachers.{name}", also=BESIDES)
    teacher: Teacher = family.load(spec, settings.precision, machine.torch_device())
    reads = params.section(f"teachers.{name}").get("reads")
    seen = data.seen_by(teacher.kind, reads, f"{params.source}: teachers.{name}")
    teacher.name_classes(data.task)
    return teacher, seen


def reload_teacher(params: Params, name: str, data: Dataset) -> Teacher:
    """The teacher `name` alone, as other processes load it; arguments and errors as of `load_teacher`."""
    return load_teacher(params, name, data)[0]
