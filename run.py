"""The main job: `python run.py` from the repository; `pama-exp` once installed."""

import sys

if not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))  # this folder: behind the installed packages, as pama_exp.safety.import_path says

from pama_exp.cli.family import main

main()
