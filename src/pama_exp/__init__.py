"""PAMA, Pareto Multi-Objective Alignment of language models, as an experiment framework.

The public API. Whatever is not listed in `__all__` here, or in `pama_exp.solvers`, may change without notice.

Align a policy to two objectives on the embedded testbed, from Python:

    >>> import pama_exp
    >>> config = pama_exp.configure("debug=fast", "model=micro", "solver=pama", "objectives=[helpful,concise]")
    >>> result = pama_exp.align(config)  # doctest: +SKIP

Combine per-objective advantages as PAMA does, anywhere:

    >>> import torch
    >>> advantages = torch.tensor([[[0.5, 2.0]], [[1.5, 1.0]]])  # (objectives, responses, tokens)
    >>> combined, weights = pama_exp.combine(advantages, torch.ones(1, 2, dtype=torch.bool))
    >>> combined
    tensor([[0.5000, 1.0000]])
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"]:  # the value of argv while Python looks for the module that `python -m pama_exp…` names
    from pama_exp.safety.import_path import put_last

    put_last()

if TYPE_CHECKING:
    from pama_exp.assembly.setup import Setup, resolve
    from pama_exp.cli.compose import configure
    from pama_exp.cli.execute import align
    from pama_exp.comparison import compare, load_runs
    from pama_exp.config.schema import Config
    from pama_exp.errors import UserError
    from pama_exp.rl.advantages import gae
    from pama_exp.solvers.pama import combine
    from pama_exp.world import FactWorld

__version__ = "0.1.0"

__all__ = [
    "Config",
    "FactWorld",
    "Setup",
    "UserError",
    "align",
    "combine",
    "compare",
    "configure",
    "gae",
    "load_runs",
    "resolve",
]

# {name: module}, imported at first use: most of them import torch and transformers.
_MODULES = {
    "Config": "config.schema",
    "FactWorld": "world",
    "Setup": "assembly.setup",
    "UserError": "errors",
    "align": "cli.execute",
    "combine": "solvers.pama",
    "compare": "comparison",
    "configure": "cli.compose",
    "gae": "rl.advantages",
    "load_runs": "comparison",
    "resolve": "assembly.setup",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pama_exp' has no attribute {name!r}")
    return getattr(import_module(f"pama_exp.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
