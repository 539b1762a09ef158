"""What calls return, where it is more than a number or an array."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


class Energy(NamedTuple):
    """Fractions of a gradient's sum of squares, each in [0, 1]."""

    raw_top_k: float
    """in the k largest entries of G"""
    basis_top_k: float
    """in the k largest entries of its core"""
    kept_block: float
    """in all entries of its core"""


class SparseGradient(NamedTuple):
    """Entries of one core: ``values`` at ``positions`` row * columns + column, which rise strictly."""

    positions: "NDArray[numpy.int32]"
    values: "NDArray[numpy.float32]"


class StepReport(NamedTuple):
    """What a step of a group did."""

    kept: int
    """entries of all sparse gradients"""
    norm: float
    """of all cores before grad_scale, where it was asked for; else NaN"""
    without_gradient: int
    """weights that had none: nothing of theirs has changed"""
    became_dense: int
    """optimizer states that became dense in this step"""
    evicted: int
    """entries that optimizer states have forgotten to make room"""
    warming_up: bool
    """whether it was a step of the warm-up: no weight has changed"""
    skipped: bool
    """whether it met NaN or Inf under non_finite="skip", and no weight has changed"""


class Memory(NamedTuple):
    """Bytes by purpose."""

    gradients: int
    """gradient memory"""
    sparse_gradients: int
    """kept entries and updates"""
    optimizer: int
    """the optimizers' states"""
    bases: int
    """bases, each counted once"""
    collection: int
    """sums from which bases are fitted"""
    scratch: int
    """the context's temporary memory"""
    total: int
    """all of it"""


class WeightInfo(NamedTuple):
    """One weight of a group."""

    shape: "tuple[int, int]"
    """(out, in)"""
    core_shape: "tuple[int, int]"
    """of its gradient in its basis"""
    kept: int
    """entries that a step keeps"""
    steps: int
    """steps that its optimizer has taken"""
    optimizer_bytes: int
    """of the optimizer's state; 0 before there is one"""
