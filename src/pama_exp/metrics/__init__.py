"""What is measured of solvers and of sets of operating points."""
