"""The report: run records in; one page, its pictures and its tables out."""

from pama_exp.report.page import write_report

__all__ = ["write_report"]
