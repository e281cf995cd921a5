"""Reports of fault campaigns: one HTML page with its figures and tables, and the comparison with the paper in Markdown."""

from __future__ import annotations

from epsilon.campaign.export import read_files
from epsilon.report.markdown import reproduction
from epsilon.report.page import Report, write_report
from epsilon.report.results import Results

__all__ = ["Report", "Results", "read_files", "reproduction", "write_report"]
