"""Records -> one HTML file that opens from disk and explains itself; knows no database."""

from bench.report.page import write_report

__all__ = ["write_report"]
