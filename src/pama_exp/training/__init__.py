"""Alignment training: one step, the update, evaluation, callbacks and loggers."""
