"""AdamW for 16-bit weights with float32 master copies, in which small steps add up.

Legend: w a 16-bit weight, m its float32 copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw


class MasterWeightAdamW(torch.optim.AdamW):
    """AdamW that updates float32 copies of 16-bit weights: m ← AdamW(m, ∇w);  w ← m rounded.

    A bfloat16 weight of 0.02 has neighbours 1.2e-4 away: at a learning rate of 1e-5, rounding would undo nearly every
    step. Copies and moments take 12 bytes per weight. 32-bit weights are their own copies.

    Source: Micikevicius et al. 2018, "Mixed precision training", section 3.1.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient, one tensor at a time, to hold only one gradient in float32."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad.float(), group)
        return loss

    def _step_one(self, parameter: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            copy = parameter.detach().float()  # the parameter itself if it has 32 bits
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(copy), torch.zeros_like(copy)
            if is_half(parameter):
                state["master"] = copy
        copy = state.get("master", parameter)
        adamw(
            [copy],
            [gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
        )
        if copy is not parameter:
            parameter.copy_(copy)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the saved state in its own precision; torch would round it to the weights' 16 bits."""
        super().load_state_dict(state_dict)
        indices = [index for group in state_dict["param_groups"] for index in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(indices, parameters, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                self.state[parameter][name] = value.to(parameter.device, copy=True)


def is_half(parameter: torch.Tensor) -> bool:
    """Whether a tensor has 16-bit numbers (bfloat16 or float16)."""
    return parameter.dtype in (torch.bfloat16, torch.float16)
