"""Safety of runs: secrets are hidden, installed modules come first, and errors are short."""
