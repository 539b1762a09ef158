"""The examples in Python print what those in C++ print."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_torch_linear():
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, ROOT / "python/examples/torch_linear.py"], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (ROOT / "examples/14_mlp.out").read_text()
