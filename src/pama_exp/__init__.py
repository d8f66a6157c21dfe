"""PAMA, Pareto Multi-Objective Alignment of language models, as an experiment framework."""

import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # so it reads while Python looks for the module that `python -m pama_exp…` names
    from pama_exp.safety.import_path import put_last

    put_last()
