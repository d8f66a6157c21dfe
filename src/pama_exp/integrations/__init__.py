"""The solvers inside other trainers: `trl` for TRL, `verl` for verl; each is imported by itself, with its extra."""
