"""`python -m pama_exp` is `python run.py` from any folder."""

from pama_exp.cli.family import main

main()
