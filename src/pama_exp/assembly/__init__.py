"""From a validated configuration to the objects of a run."""
