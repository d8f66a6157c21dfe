"""FactWorld: an embedded testbed for multi-objective alignment whose true Pareto front is known."""

from pama_exp.world.language import Prompt
from pama_exp.world.true_front import Front
from pama_exp.world.world import FactWorld

__all__ = ["FactWorld", "Front", "Prompt"]
