"""The one namespace from which Hydra takes launchers and sweepers; what they do is in pama_exp.sweeping."""
