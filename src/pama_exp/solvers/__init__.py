"""Multi-objective solvers: tensors in, tensors out.

A new solver is a subclass of `Solver` that overrides one of its hooks:

    >>> import torch
    >>> from pama_exp.solvers import Solver
    >>> class Best(Solver):
    ...     '''Every token gets the largest of its advantages.'''
    ...     def on_advantages(self, advantages, response_mask):
    ...         return advantages.amax(0, keepdim=True)
    >>> Best([0.5, 0.5]).on_advantages(torch.tensor([[[1.0]], [[2.0]]]), torch.ones(1, 1, dtype=torch.bool))
    tensor([[[2.]]])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pama_exp.solvers.adaptive import CTWA, DynamicHypervolume, Lagrangian
    from pama_exp.solvers.balancing import DynamicGradient, GradNorm
    from pama_exp.solvers.conflicts import cagrad, config, dualproj, gradvac, pcgrad, upgrad
    from pama_exp.solvers.fairness import aligned_mtl, cr_mogm, fairgrad, imtl_g, nash_mtl, rgw
    from pama_exp.solvers.gapo import GAPO, PGAPO
    from pama_exp.solvers.gradient import MGDA, MGDAUB
    from pama_exp.solvers.group import GDPO, RVPO
    from pama_exp.solvers.group_weights import DARA, DVAO, GD2PO, RDPO, CorrGRPO
    from pama_exp.solvers.loss_scalarizers import cosmos, dwa, famo, geometric_mean, pbi, stch, uw
    from pama_exp.solvers.noon import ShiftedPAMA, SoftNoon
    from pama_exp.solvers.pama import PAMA, combine
    from pama_exp.solvers.scalarizers import Linear
    from pama_exp.solvers.solver import Gramian, Solver
    from pama_exp.solvers.steered import orpg, raco
    from pama_exp.solvers.tchebycheff import SmoothTchebycheff, Tchebycheff
    from pama_exp.solvers.welfare import FastRL, ProportionalFairness, Saturation

__all__ = [
    "CTWA",
    "DARA",
    "DVAO",
    "GAPO",
    "GD2PO",
    "GDPO",
    "MGDA",
    "MGDAUB",
    "PAMA",
    "PGAPO",
    "RDPO",
    "RVPO",
    "CorrGRPO",
    "DynamicGradient",
    "DynamicHypervolume",
    "FastRL",
    "GradNorm",
    "Gramian",
    "Lagrangian",
    "Linear",
    "ProportionalFairness",
    "Saturation",
    "ShiftedPAMA",
    "SmoothTchebycheff",
    "SoftNoon",
    "Solver",
    "Tchebycheff",
    "aligned_mtl",
    "cagrad",
    "combine",
    "config",
    "cosmos",
    "cr_mogm",
    "dualproj",
    "dwa",
    "fairgrad",
    "famo",
    "geometric_mean",
    "gradvac",
    "imtl_g",
    "nash_mtl",
    "orpg",
    "pbi",
    "pcgrad",
    "raco",
    "rgw",
    "stch",
    "upgrad",
    "uw",
]

# Imported on first access: torchjd, which half of them use, takes a second to import.
_HOME = {
    "adaptive": ("CTWA", "DynamicHypervolume", "Lagrangian"),
    "balancing": ("DynamicGradient", "GradNorm"),
    "conflicts": ("cagrad", "config", "dualproj", "gradvac", "pcgrad", "upgrad"),
    "fairness": ("aligned_mtl", "cr_mogm", "fairgrad", "imtl_g", "nash_mtl", "rgw"),
    "gapo": ("GAPO", "PGAPO"),
    "gradient": ("MGDA", "MGDAUB"),
    "group": ("GDPO", "RVPO"),
    "loss_scalarizers": ("cosmos", "dwa", "famo", "geometric_mean", "pbi", "stch", "uw"),
    "pama": ("PAMA", "combine"),
    "scalarizers": ("Linear",),
    "group_weights": ("CorrGRPO", "DARA", "DVAO", "GD2PO", "RDPO"),
    "noon": ("ShiftedPAMA", "SoftNoon"),
    "steered": ("orpg", "raco"),
    "welfare": ("FastRL", "ProportionalFairness", "Saturation"),
    "solver": ("Gramian", "Solver"),
    "tchebycheff": ("SmoothTchebycheff", "Tchebycheff"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
