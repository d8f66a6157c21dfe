"""Multi-objective solvers and what is measured of them: tensors in, tensors out."""
