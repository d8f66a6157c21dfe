"""One step of alignment, and what surrounds it: Lightning, evaluation, the record of a run."""
