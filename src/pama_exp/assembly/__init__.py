"""Building the objects of a run from a validated configuration."""
