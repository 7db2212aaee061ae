"""Results of an experiment -> one JSON file, one HTML page, one terminal table, and the verdict in words."""

from __future__ import annotations

from saft.report.report_files import read, rewrite, write
from saft.report.results import Results
from saft.report.summary import Summary, summarize
from saft.report.terminal import table

__all__ = ["Results", "Summary", "read", "rewrite", "summarize", "table", "write"]
