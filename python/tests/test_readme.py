"""The programs of python/README.md run, and the installed package says what it is."""

import importlib.metadata
import pathlib
import re

import numpy as np
import pytest

import sparsegrad

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def names(random):
    number = lambda *shape: random.standard_normal(shape).astype(np.float32)
    g = number(72, 70)
    return {
        "W": number(72, 70),
        "gradient": lambda w: w - g,
        "gradients": [number(72, 70) for _ in range(3)],
        "g": g,
        "k": 20,
        "sparsegrad": sparsegrad,
        "adam": sparsegrad.SparseAdam((72, 64)),
    }


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(number, random):
    block = BLOCKS[number]
    known = names(random)
    if "import torch" in block:
        torch = pytest.importorskip("torch")
        known["batches"] = [(torch.ones(4, 24), torch.zeros(4, 24))] * 12
    exec(block, known)
    if "report" in known:
        assert known["report"].kept > 0


def test_metadata():
    package = importlib.metadata.distribution("sparsegrad")
    said = package.metadata
    assert said["Version"] == sparsegrad.__version__
    assert said["License-Expression"] == "MIT" and said.get_all("License-File") == ["LICENSE"]
    assert said["Description-Content-Type"] == "text/markdown" and "# sparsegrad in Python" in README
    assert (said.get_payload() or said["Description"]).strip() == README.strip()
    assert "Typing :: Typed" in said.get_all("Classifier")
    there = {str(file).partition(".dist-info/")[2] or str(file): file for file in package.files}
    assert {"sparsegrad/py.typed", "sparsegrad/_core.pyi", "licenses/LICENSE"} <= set(there)
    text = (pathlib.Path(__file__).parents[2] / "LICENSE").read_text()
    assert there["licenses/LICENSE"].locate().read_text() == text
