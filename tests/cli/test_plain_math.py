"""Formulas of docstrings in plain letters."""

from __future__ import annotations

import inspect
import re

import pytest

from saft.cli.catalogue import ARMS
from saft.cli.plain_math import plain_math, with_plain_math
from saft.interference.quantity import MEASURES
from saft.tasks import TASKS

LEFT = re.compile(r"\\[A-Za-z,|]|\$|:?math:")


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (r"\epsilon = \rho\, T^2 g / \|T g\|_2", "ε = ρ T² g / ‖T g‖₂"),
        (r"\tfrac{\alpha}{r} B^\top G'", "α/r Bᵀ G'"),
        (r"\frac{1}{n k} \sum_{x \in D_t} \lVert h(x; m) \rVert_1", "1 / (n k) Σ_(x ∈ D_t) ‖h(x; m)‖₁"),
        (r"\Big( \frac{\partial \ell_j}{\partial \theta_i} \Big)^2", "(∂ℓ_j / ∂θ_i)²"),
        (r"J_{\hat h}\,(w - w_0)", "J_ĥ (w − w₀)"),
        (r"\max_x \operatorname{tr}(A) \text{ at } \mathbb{E}", "max_x tr(A) at E"),
        (r"A \in R^{r \times k}, \unknown{x}", "A ∈ R^(r × k), unknownx"),
        (r"\frac", "/"),  # what is cut off is told as far as it goes
    ],
)
def test_a_formula(latex: str, plain: str) -> None:
    assert plain_math(latex) == plain


def test_each_formula_of_a_block_has_a_line_and_prose_stays_as_it_is() -> None:
    text = "Of $HOME and $PATH.\n\n    .. math:: a = \\tau_t, \\qquad\n       b = 1\n\n    More."
    assert with_plain_math(text) == "Of $HOME and $PATH.\n\n        a = τ_t\n        b = 1\n\n    More."


@pytest.mark.parametrize("registry", [MEASURES, TASKS, *ARMS.values()], ids=lambda registry: registry.noun)
def test_nothing_of_latex_is_left_in_what_is_listed(registry) -> None:
    for name, kind in registry.items():
        documentation = inspect.getdoc(kind) or ""
        formulas = re.findall(r"\.\. math::[^\n]*(?:\n +\S[^\n]*)*|:math:`[^`]+`|\$[^$\n]+\$", documentation)
        assert not [text for text in map(with_plain_math, formulas) if LEFT.search(text)], name
