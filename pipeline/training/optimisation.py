"""The optimiser: groups of parameters with their learning rates, clipping, and the scaled loss of float16.

Nothing here waits for the device.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.students import Student
from pipeline.training.config import TrialSettings


class Optimisation:
    """The optimiser of one trial, with its learning rates and the treatment of gradients.

    Args:
        student: in training mode; its frozen layers are in evaluation mode, see `freeze`.
        methods: modules whose parameters are trained at their own learning rate, without decay.
        settings: of the trial.
        device: that trains.

    Attributes:
        trained: the student's parameters that are not frozen.
        optimizer: of these and the methods' parameters.
        scaler: of the loss; does nothing but in float16.
    """

    def __init__(
        self,
        student: Student,
        methods: Iterable[tuple[nn.Module, float]],
        settings: TrialSettings,
        device: torch.device,
    ):
        self.settings = settings
        self.trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        # One fused kernel for all parameters: a small student's step is mostly the overhead of many small ones.
        self.optimizer = torch.optim.AdamW(parameter_groups(student, settings), fused=True)
        for method, learning_rate in methods:
            if own := list(method.parameters()):
                self.optimizer.add_param_group({"params": own, "lr": learning_rate, "weight_decay": 0.0})
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")

    def begin(self, step: int) -> None:
        """Start a step: no gradients, and its learning rates."""
        self.optimizer.zero_grad(set_to_none=True)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate(step, self.settings)

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Add the gradients of a loss to those of the step."""
        self.scaler.scale(loss).backward()

    def end(self) -> None:
        """Update the weights. In float16, a step whose gradients overflow changes none, and lowers the scale."""
        if self.settings.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def tensors(self) -> dict[str, Tensor]:
        """The state of optimiser and scaler, by name."""
        found = {
            f"{number}/{key}": value
            for number, of in self.optimizer.state_dict()["state"].items()
            for key, value in of.items()
        }
        if self.scaler.is_enabled():
            state = self.scaler.state_dict()
            found["scaler"] = torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the state that `tensors` gave.

        Raises:
            KeyError, ValueError: it is of another optimiser.
        """
        states: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for name, value in tensors.items():
            number, _, key = name.partition("/")
            if not key:
                continue
            like = parameters[int(number)]
            # A copy, which steps may change; laid out as the parameter is, because the fused kernel walks through both.
            into = torch.empty_like(like, dtype=value.dtype) if value.shape == like.shape else torch.empty_like(value)
            copy = into.copy_(value)
            states.setdefault(int(number), {})[key] = copy
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
        if self.scaler.is_enabled():
            scale, growth = tensors["scaler"].tolist()
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(growth)})


def parameter_groups(student: Student, settings: TrialSettings) -> list[dict[str, Any]]:
    """The student's trained parameters, in groups of one learning rate and one weight decay, as torch takes them.

    The rate of a layer is `learning_rate * layer_decay ** (layers above it)`, as in ELECTRA and BEiT. Biases and norms
    have one dimension.
    """
    depths = student.depths()
    top = max(depths.values())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            learning_rate = settings.learning_rate * settings.layer_decay ** (top - depths[name])
            decays = settings.decayed == "all" or parameter.ndim > 1
            groups.setdefault((learning_rate, settings.weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": own, "lr": lr, "weight_decay": decay} for (lr, decay), own in groups.items()]


def freeze(student: Student, trained_layers: int | None) -> None:
    """Freeze all layers except the last `trained_layers` and the head, in evaluation mode: no dropout, fixed BatchNorm.

    Raises:
        UserError: the student has fewer layers.
    """
    if trained_layers is None:
        return
    depths = student.depths()
    top = max(depths.values())
    if trained_layers > top:
        raise UserError(f"train.trained_layers: {trained_layers}, but the student has {top} below its head; set fewer")
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(depths[name] >= top - trained_layers)
    for module in student.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def rate(step: int, settings: TrialSettings) -> float:
    """The learning rate at a step, as a share of its peak: a linear rise, then a cosine to 0."""
    rise = max(1, round(settings.warmup * settings.steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, settings.steps - rise))))
