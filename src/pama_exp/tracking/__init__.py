"""The record of a run on disk, loggers such as W&B, printing, and pictures."""
