"""Serving: MLflow's scoring server behind a small front door that follows an alias without dropping a request."""

from pipelines.serving.server import serve
from pipelines.serving.terms import Terms

__all__ = ["Terms", "serve"]
