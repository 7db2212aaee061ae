"""Student's t: how many standard errors an interval reaches, where the error was found from few values."""

from __future__ import annotations

import functools
import itertools
import math
from statistics import NormalDist

__all__ = ["student_t"]

STEPS = 4096  # of the angle that its density is integrated over
LIKE_NORMAL = 200.0  # degrees of freedom


@functools.cache
def student_t(share: float, freedom: float) -> float:
    r"""Return what Student's t is below with a probability.

    .. math:: P(0 < T < \sqrt\nu \tan\theta) \propto \int_0^\theta \cos^{\nu - 1}\!u \, du

    and of many degrees of freedom z + (z³ + z) / 4ν + (5z⁵ + 16z³ + 3z) / 96ν², z being the normal
    distribution's.

    Args:
        share: the probability, at least 0.5 and less than 1.
        freedom: degrees of freedom ν, at least 1; need not be whole.

    Example:
        >>> [round(student_t(0.975, freedom), 2) for freedom in (1, 5, 30, math.inf)]
        [12.71, 2.57, 2.04, 1.96]
    """
    if not freedom < LIKE_NORMAL:
        z = NormalDist().inv_cdf(share)
        if math.isnan(freedom):  # of an error that is not known, or that JSON has no number for: of many
            return z
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    width = math.pi / 2 / STEPS
    density = [math.cos(step * width) ** (freedom - 1) for step in range(STEPS)] + [float(freedom == 1)]
    below = list(itertools.accumulate((a + b for a, b in itertools.pairwise(density)), initial=0.0))
    wanted = (2 * share - 1) * below[-1]
    after = next(step for step in range(1, STEPS + 1) if below[step] >= wanted)
    part = (wanted - below[after - 1]) / (below[after] - below[after - 1])
    return math.sqrt(freedom) * math.tan((after - 1 + part) * width)
