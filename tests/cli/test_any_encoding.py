"""What is printed where the encoding lacks letters of it."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from saft.cli.any_encoding import print_in_any_encoding


def printed(text: str, encoding: str) -> bytes:
    kept = io.BytesIO()
    file = io.TextIOWrapper(kept, encoding=encoding, write_through=True)
    print_in_any_encoding(file)
    file.write(text)
    return kept.getvalue()


def test_what_can_be_written_stays_as_it_is() -> None:
    text = "−1.3 ± 0.2, é, 模型"
    assert printed(text, "utf-8") == text.encode()
    assert printed("± é", "latin-1") == "± é".encode("latin-1")


def test_numbers_keep_their_sign_and_names_can_be_told_apart() -> None:
    assert printed("−1.3 ± 0.2 → λ", "ascii") == b"-1.3 +/- 0.2 -> lambda"
    assert (
        printed("Δ = ‖θ₀‖₂², Uᵀ, wₜ⁻¹, g̃, α", "ascii") == b"Delta = ||theta_0||_2^2, U^T, w_t^-^1, g~, alpha"
    )
    assert printed("模型", "ascii") == b"\\u6a21\\u578b"
    assert printed("a\udcff", "utf-8") == b"a\\udcff"  # a byte of a file's name that is no text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_verb_ends_as_with_any_other_encoding(encoding: str) -> None:
    words = [sys.executable, "-m", "saft", "methods", "ties"]
    done = subprocess.run(words, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    done.stdout.decode(encoding)
