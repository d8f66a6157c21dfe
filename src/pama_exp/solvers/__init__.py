"""Multi-objective solvers: tensors in, tensors out."""
