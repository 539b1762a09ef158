"""Sparse fine-tuning in a Tucker basis, for prototypes and checks: the C++ library from Python.

    group = sparsegrad.Group(density=0.05, warmup_steps=10)
    w = group.add_weight(W, "up")           # W [out, in]: a numpy array or a tensor, trained where it is
    for step in range(200):
        group.set_gradient(w, gradient(W))  # read where it is, until the step
        group.step(learning_rate=0.1)

Arrays are numpy arrays, or any object on the CPU with ``__dlpack__`` (torch tensors), in float32,
bfloat16 or float16, and are never copied. Results are numpy arrays.
"""

from . import _core
from ._core import (
    Context,
    Group,
    Layer,
    SavedInput,
    Side,
    SparseAdam,
    TuckerBasis,
    backends,
    top_k,
)
from ._errors import (
    ArgumentError,
    CapacityError,
    Error,
    FileError,
    NonFiniteError,
    ShapeError,
    StateError,
)
from ._results import Energy, Memory, SparseGradient, StepReport, WeightInfo

__version__: str = _core.version

__all__ = [
    "ArgumentError",
    "CapacityError",
    "Context",
    "Energy",
    "Error",
    "FileError",
    "Group",
    "Layer",
    "Memory",
    "NonFiniteError",
    "SavedInput",
    "ShapeError",
    "Side",
    "SparseAdam",
    "SparseGradient",
    "StateError",
    "StepReport",
    "TuckerBasis",
    "WeightInfo",
    "backends",
    "top_k",
]
