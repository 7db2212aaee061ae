"""The first forward derivative of a process warns of torch's own affairs: not a user's."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import torch
from saft.forward_derivatives import load_forward_derivatives
load_forward_derivatives()
_, tangent = torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))
print(tangent.item())
"""


def test_neither_the_first_nor_the_next_one_warns() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("1.0", 0), done.stderr
