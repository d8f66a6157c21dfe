"""The report: one HTML page about many runs, with its plots and tables as files."""

from pama_exp.report.page import write_report

__all__ = ["write_report"]
