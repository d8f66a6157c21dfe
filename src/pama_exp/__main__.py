"""`python -m pama_exp` is `python run.py` from any folder."""

from pama_exp.cli.app import main

main()
