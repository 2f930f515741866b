"""Judging models: likelihood, distances, coverage and memorisation, each beside its real-vs-real floor.
`evaluate` returns a `Report` of one model, `compare` a `Comparison` of several; both print as text, Markdown, HTML.
What needs no model is in `reverie.metrics`; what is drawn or printed here is a function of the report alone."""

from reverie.evaluation.compare import compare
from reverie.evaluation.comparison import Comparison
from reverie.evaluation.evaluate import evaluate
from reverie.evaluation.machines import log_partition, mixing
from reverie.evaluation.report import Report
from reverie.evaluation.rows import Row

__all__ = ["Comparison", "Report", "Row", "compare", "evaluate", "log_partition", "mixing"]
