"""Measures of solvers (diagnostics) and of sets of operating points (fronts)."""
