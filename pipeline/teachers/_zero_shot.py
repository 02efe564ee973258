"""Classes from their names, for the head `zero_shot`: names become texts, and the texts unit vectors."""

from collections.abc import Callable, Collection, Sequence

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from pipeline import params
from pipeline.errors import UserError, suggestion
from pipeline.sources import ZERO_SHOT
from pipeline.tasks import Task

PROMPTS = 64
"""The number of prompts in a batch."""


class ZeroShot(params.Settings):
    """How class names become texts.

    Attributes:
        template: one, or several, whose embeddings are averaged; each holds `{}` once, where the name goes.
        names: by class, the words to use instead of its name in the dataset.
    """

    template: str | list[str] = "a photo of a {}"
    names: dict[str, str] = Field(default_factory=dict)

    @field_validator("template")
    @classmethod
    def _takes_a_name(cls, template: str | list[str]) -> str | list[str]:
        every = [template] if isinstance(template, str) else template
        if not every or any(text.count("{}") != 1 for text in every):
            raise ValueError("should hold {} once, where the name of the class goes, as in 'a photo of a {}'")
        return template

    @property
    def templates(self) -> list[str]:
        """All templates."""
        return [self.template] if isinstance(self.template, str) else self.template


def check_head(spec: ZeroShot | None, heads: Collection[str]) -> None:
    """Refuse settings of a head that is not kept."""
    if spec is not None and ZERO_SHOT not in heads:
        raise ValueError("zero_shot does nothing unless `heads` has it: write heads: [pooled, zero_shot]")


def name_the_classes(
    spec: ZeroShot, task: Task, model: str, fits: Callable[[str], bool], length: int
) -> tuple[list[str], list[str]]:
    """The words for each class, and the prompts made of them: all templates of the first class, then of the next.

    Args:
        spec: how names become texts.
        task: has the classes.
        model: its name, for messages.
        fits: whether nothing of a text is cut off.
        length: the most tokens of a text.

    Raises:
        UserError: there are no classes, or their names do not allow it.
    """
    where = f"{model}: zero_shot"
    if not task.classes:
        raise UserError(f"{where}: the dataset has no classes to name (its task is {task.name}); remove the head")
    if unknown := sorted(set(spec.names) - set(task.classes)):
        raise UserError(f"{where}.names: the dataset has no class {unknown[0]!r}{suggestion(unknown[0], task.classes)}")
    # Names of folders have underscores where texts have spaces.
    words = [spec.names.get(name, name.replace("_", " ")) for name in task.classes]
    if len(set(words)) < len(words):
        twice = next(word for word in words if words.count(word) > 1)
        raise UserError(f"{where}.names: two classes are named {twice!r}; give them different names")
    prompts = [template.replace("{}", word) for word in words for template in spec.templates]
    if long := next((prompt for prompt in prompts if not fits(prompt)), None):
        raise UserError(f"{where}: {long!r} is longer than the {length} tokens that the model reads of a text")
    return words, prompts


@torch.inference_mode()
def embed_prompts(
    embed: Callable[[Sequence[str]], Float[Tensor, "n d"]], prompts: Sequence[str], templates: int
) -> Float[Tensor, "c d"]:
    """A unit vector for each class: the mean over its templates of unit vectors, scaled to norm 1 again.

    As in CLIP (arXiv 2103.00020, section 3.1.4).

    Args:
        embed: the features of some texts.
        prompts: see `name_the_classes`.
        templates: how many each class has.
    """
    parts = [
        nn.functional.normalize(embed(prompts[start : start + PROMPTS]), dim=1)
        for start in range(0, len(prompts), PROMPTS)
    ]
    return nn.functional.normalize(torch.cat(parts).unflatten(0, (-1, templates)).mean(1), dim=1)
