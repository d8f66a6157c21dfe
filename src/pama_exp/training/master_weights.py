"""AdamW for weights in 16 bits: steps that are smaller than a weight's last digit add up in float32 copies.

Legend: w a weight in 16 bits, m its copy in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw


class MasterWeightAdamW(torch.optim.AdamW):
    """m ← AdamW(m, ∇w);  w ← m rounded.

    A weight of 0.02 in bfloat16 has neighbours 1.2e-4 away: at a learning rate of 1e-5 AdamW on w itself would round
    nearly every step back. Copies and moments take 12 bytes for each weight. Weights in 32 bits are their own copies.

    Source: Micikevicius et al. 2018, "Mixed precision training", section 3.1.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every weight that has a gradient; one tensor at a time, so that one gradient is in float32."""
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
            copy = parameter.detach().float()  # itself, where it is in 32 bits
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
        """Also what torch would round to the weights' 16 bits: the state as it was saved."""
        super().load_state_dict(state_dict)
        indices = [index for group in state_dict["param_groups"] for index in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(indices, parameters, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                self.state[parameter][name] = value.to(parameter.device, copy=True)


def is_half(parameter: torch.Tensor) -> bool:
    """Whether a weight is held in 16 bits."""
    return parameter.dtype in (torch.bfloat16, torch.float16)
