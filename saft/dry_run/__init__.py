"""`saft run --tiny`: a whole experiment on a tiny random model and generated data, to see that it works."""

from saft.dry_run.tiny_run import tiny_run

__all__ = ["tiny_run"]
