"""The main job: `python run.py` from the repository; `pama-exp` once installed."""

from pama_exp.app import main

main()
