r"""Formulas of docstrings, which are LaTeX, as a terminal shows them: `\frac1n \sum_i x_i` is 1/n Σ_i x_i."""

from __future__ import annotations

import re
import textwrap
import unicodedata

__all__ = ["plain_math", "with_plain_math"]

_TABLE = """
    alpha α beta β gamma γ delta δ epsilon ε zeta ζ eta η theta θ lambda λ mu μ nu ν xi ξ rho ρ sigma σ
    tau τ phi φ Delta Δ Sigma Σ ell ℓ nabla ∇ partial ∂ sum Σ top ᵀ cdot · times × odot ⊙ otimes ⊗ pm ±
    le ≤ ge ≥ ne ≠ sim ~ in ∈ mid | perp ⊥ setminus ∖ cap ∩ cup ∪ leftarrow ← dots … infty ∞ | ‖ lVert ‖
    rVert ‖ lvert | rvert | langle ⟨ rangle ⟩
"""
SYMBOLS: dict[str, str] = dict(re.findall(r"(\S+) (\S)", _TABLE)) | dict.fromkeys(
    [",", ";", " ", "quad"], " "
)
"""Command -> what it is; any other stands for its own name, as \\max does."""
OPENS = {"lVert", "lvert", "langle", "(", "["}
CLOSES = {"rVert", "rvert", "rangle", ")", "]"}
PREFIXES = {"partial", "Delta", "nabla"}
ACCENTS = {"hat": "\u0302", "tilde": "\u0303", "bar": "\u0304", "overline": "\u0304"}
SIZES = {"left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr"}
WRAPPERS = {"text", "operatorname", "mathbb", "mathrm", "mathcal"}
UPPER = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
LOWER = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
BLOCK = re.compile(r"^( *)\.\. math:: *(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`|\$(?!\s)((?:[^$\n]|\n(?!\s*\n))+)(?<!\s)\$")


def with_plain_math(text: str) -> str:
    r"""Return a text with its formulas in plain letters.

    Args:
        text: of a docstring: formulas stand below `.. math::`, in `:math:` or between dollars.

    Example:
        >>> print(with_plain_math("By $\\rho\\, g$.\n\n.. math:: a = b^2, \\qquad c = \\sqrt{a + 1}"))
        By ρ g.
        <BLANKLINE>
            a = b²
            c = √(a + 1)
    """

    def block(match: re.Match[str]) -> str:
        parts = (plain_math(part).rstrip(",") for part in match[2].split(r"\qquad"))
        return textwrap.indent("\n".join(part for part in parts if part), f"{match[1]}    ")

    text = BLOCK.sub(block, text)
    return INLINE.sub(lambda match: plain_math(match[1] or match[2]), text)


def plain_math(latex: str) -> str:
    r"""Return a formula in plain letters; what is below or above has `_` or `^` where it is no number.

    Args:
        latex: of the formula; a command that is not known stands for its name.

    Example:
        >>> plain_math(r"\frac{a_t(m) - a_t(\theta_0)}{\lVert \tau_t \rVert^2} = \hat h = A^\top h^{-1}")
        '(a_t(m) − a_t(θ₀)) / ‖τ_t‖² = ĥ = Aᵀ h⁻¹'
    """
    text = _Reader(TOKEN.findall(latex)).all_until("")
    return " ".join(unicodedata.normalize("NFC", text).split())


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens[::-1]

    def all_until(self, end: str) -> str:
        """Return everything up to a token, which is taken too."""
        text = ""
        while self._tokens and (token := self._tokens.pop()) != end:
            if token.lstrip("\\") in CLOSES:
                text = text.rstrip()
            text += self._of(token)
            if token.lstrip("\\") in OPENS | PREFIXES:
                self._skip_space()
        return text

    def _of(self, token: str) -> str:
        name = token.removeprefix("\\")
        if token == "{":
            return self.all_until("}")
        if token in ("_", "^"):
            return _script(token, self._argument())
        if token == name:
            return "−" if token == "-" else "'" if token == "'" else token
        if name in SIZES:
            self._skip_space()
            return ""
        if name in ACCENTS:
            return self._argument() + ACCENTS[name]
        if name in WRAPPERS:
            return self._argument()
        if name in ("frac", "tfrac", "dfrac"):
            above, below = self._argument(), self._argument()
            slash = "/" if re.fullmatch(r"\w+", above) and re.fullmatch(r"\w+", below) else " / "
            return _in_brackets(above) + slash + _in_brackets(below)
        if name == "sqrt":
            return "√" + _in_brackets(self._argument())
        return SYMBOLS.get(name, name)

    def _argument(self) -> str:
        self._skip_space()
        return self._of(self._tokens.pop()).strip() if self._tokens else ""

    def _skip_space(self) -> None:
        while self._tokens and self._tokens[-1].isspace():
            self._tokens.pop()


def _script(sign: str, text: str) -> str:
    text = unicodedata.normalize("NFC", text).replace("−", "-")
    if text == "ᵀ" or set(text) <= {"'"}:
        return text
    table = UPPER if sign == "^" else LOWER
    if all(ord(letter) in table for letter in text):
        return text.translate(table)
    text = text.replace("-", "−")
    return sign + (text if re.fullmatch(r"[\w⊥]+", text) else f"({text})")


def _in_brackets(text: str) -> str:
    """Return a text that stands as one beside a slash: in brackets where it is a sum, or several things."""
    depth, inside = 0, False
    for letter in text:
        inside ^= letter in "‖|"
        depth += (letter in "([{⟨") - (letter in ")]}⟩")
        if letter in " +−/" and depth == 0 and not inside:
            return f"({text})"
    return text
