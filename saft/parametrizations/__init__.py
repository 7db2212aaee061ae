"""What of a trunk is trained, and how that becomes weights again."""

from saft.parametrizations.parametrization import PARAMETRIZATIONS, Losses, Parametrization, parametrization

__all__ = ["PARAMETRIZATIONS", "Losses", "Parametrization", "parametrization"]
