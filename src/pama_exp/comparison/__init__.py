"""Comparing finished runs: their settings, their results, and statistical tests."""

from pama_exp.comparison.groups import Group
from pama_exp.comparison.load import Run, load_runs, split_by_objectives
from pama_exp.comparison.seedwise import Comparison, Test, compare
from pama_exp.comparison.solver_fronts import Front
from pama_exp.comparison.statistics import Interval

__all__ = ["Comparison", "Front", "Group", "Interval", "Run", "Test", "compare", "load_runs", "split_by_objectives"]
