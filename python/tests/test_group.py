"""Groups: the README's numbers, AdamW by hand, reports, bases, saved states."""

import json
import os
import pathlib
import re
import subprocess

import numpy as np
import pytest

import sparsegrad
from conftest import StdRandom
from sparsegrad import Group, Layer, Side
from test_arrays import Bfloat16

ROOT = pathlib.Path(__file__).parents[2]


def test_losses_of_the_readme():
    """examples/01_quickstart.cpp, in float32 as there."""
    out, in_ = 64, 32
    f = np.float32
    i = np.arange(out * in_)
    target = np.sin(f(0.1) * (i // in_).astype(f)) * np.cos(f(0.3) * (i % in_).astype(f)) * (i % 3).astype(f)
    target = target.reshape(out, in_)
    w = np.zeros((out, in_), np.float32)
    group = Group(density=0.05, warmup_steps=10)
    index = group.add_weight(w, "up")
    lines = []
    for step in range(201):
        dw = w - target
        if step % 100 == 0:
            lines.append(f"step {step:3}  loss {0.5 * float((dw.astype(np.float64) ** 2).sum()):5.1f}")
        group.set_gradient(index, dw)
        del dw  # the group keeps it
        group.step(learning_rate=0.2)
    assert "\n".join(lines) in (ROOT / "README.md").read_text()


def test_all_entries_are_adamw(random, context):
    w = random.standard_normal((6, 4)).astype(np.float32)
    expected, m, v = w.astype(np.float64), np.zeros((6, 4)), np.zeros((6, 4))
    group = Group(density=1, semantics="dense_core", capacity_factor=0, beta1=0.8, context=context)
    group.add_weight(w)
    for t in range(1, 6):
        g = random.standard_normal((6, 4)).astype(np.float32)
        group.set_gradient(0, g)
        report = group.step(learning_rate=0.01, weight_decay=0.1, grad_scale=0.5, norm=True)
        m = 0.8 * m + 0.2 * 0.5 * g
        v = 0.999 * v + 0.001 * (0.5 * g.astype(np.float64)) ** 2
        expected *= 1 - 0.01 * 0.1
        expected -= 0.01 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(w, expected, atol=1e-6)
        assert report.kept == 24 and report.norm == pytest.approx(np.linalg.norm(g), rel=1e-5)
        assert not report.warming_up and not report.skipped and report.evicted == report.became_dense == 0


def test_warm_up_then_steps_in_the_basis(random, context):
    """A step beside the same one by its parts: basis, core, largest entries, Adam, expansion."""
    w = random.standard_normal((8, 6)).astype(np.float32)
    by_parts = w.copy()
    given = [random.standard_normal((8, 6)).astype(np.float32) for _ in range(4)]
    group = Group(entries=10, warmup_steps=2, out_side=Side.hosvd(5), context=context)
    group.add_weight(w, "up")
    for g in given[:2]:
        assert group.warming_up
        group.set_gradient(0, g)
        report = group.step(learning_rate=0.1)
        assert report.warming_up and report.kept == 0 and np.isnan(report.norm)
    np.testing.assert_array_equal(w, by_parts)
    basis = group.basis(0)
    np.testing.assert_array_equal(
        basis.v, sparsegrad.TuckerBasis.fit(given[:2], out_side=Side.hosvd(5), context=context).v
    )
    adam = sparsegrad.SparseAdam(basis.core_shape, capacity=40, context=context)
    for g in given[2:]:
        group.set_gradient(0, g)
        group.step(learning_rate=0.1)
        entries = sparsegrad.top_k(basis.project(g), 10, context=context)
        by_parts += basis.expand(adam.step(entries, learning_rate=0.1))
        np.testing.assert_allclose(w, by_parts, atol=1e-5)
    info = group.describe_weight(0)
    assert info == ((8, 6), (5, 6), 10, 2, info.optimizer_bytes) and info.optimizer_bytes > 0
    memory = group.memory()
    assert memory.total == sum(memory[:-1]) and memory.optimizer == info.optimizer_bytes


def test_sides_by_kind(random):
    sides = {"up": (Side.identity(), Side.hosvd(3)), "down": (Side.random(2), Side.hadamard())}
    group = Group(warmup_steps=1, sides=sides)
    for kind in ("up", "down", "other"):
        group.add_weight(np.zeros((8, 6), np.float32), kind)
        group.set_gradient(len(group) - 1, random.standard_normal((8, 6)).astype(np.float32))
    group.step(learning_rate=0.1)
    assert [group.basis(i).core_shape for i in range(3)] == [(8, 3), (2, 6), (8, 6)]
    group = Group(sides={"upp": sides["up"]})
    group.add_weight(np.zeros((8, 6), np.float32), "up")
    with pytest.raises(ValueError, match="sides names 'upp', which is the kind of no weight; there are 'up'"):
        group.step(learning_rate=0.1)


def test_clipping_and_weights_without_gradient():
    group = Group(density=1)
    for _ in range(2):
        group.add_weight(np.zeros((2, 2), np.float32))
    group.set_gradient(0, np.full((2, 2), 3, np.float32))
    group.set_gradient(0, np.full((2, 2), 2, np.float32))  # in place of the first
    assert group.squared_norm() == 16
    assert group.step(learning_rate=0.1).without_gradient == 1
    group.set_gradient(1, np.ones((2, 2), np.float32))
    group.clear()
    assert group.step(learning_rate=0.1).without_gradient == 2


def test_bases_anew(random):
    group = Group(warmup_steps=1, in_side=Side.hosvd(4), entries=9)
    group.add_weight(np.zeros((12, 8), np.float32))
    step = lambda: (
        group.set_gradient(0, random.standard_normal((12, 8)).astype(np.float32)),
        group.step(learning_rate=0.1),
    )
    step()
    first = group.basis(0)
    group.collect()
    assert group.collecting and not group.warming_up
    step()
    group.refresh("transport")
    assert not group.collecting and group.describe_weight(0).steps == 1
    assert not np.array_equal(first.u, group.basis(0).u)
    group.set_basis(0, first)
    np.testing.assert_array_equal(first.u, group.basis(0).u)
    assert group.describe_weight(0).steps == 0
    group.set_basis(0, None, "transport")
    assert group.describe_weight(0).core_shape == (12, 8)
    group.collect()
    group.stop_collecting()
    with pytest.raises(sparsegrad.StateError):
        group.refresh()
    group.reserve(16)


def test_repr(context):
    group = Group(density=1, warmup_steps=1, context=context)
    assert repr(group) == "<Group of 0 weights of float32, warming up>"
    for steps in ("warming up", "0 steps", "1 step"):
        if len(group) < 2:
            group.add_weight(np.ones((4, 3), np.float32))
            group.add_weight(np.ones((4, 3), np.float32))
        assert repr(group) == f"<Group of 2 weights of float32, {steps}>"
        group.set_gradient(1, np.eye(4, 3, dtype=np.float32))
        group.step(learning_rate=0.1)
    assert repr(Group(dtype="bfloat16")) == "<Group of 0 weights of bfloat16, 0 steps>"
    assert repr(context) == f"<Context of 1 thread on {context.backend}>"
    layer = Layer(np.ones((4, 3), np.float32), context=context)
    assert repr(layer) == "<Layer [4, 3] of float32>"
    basis = group.basis(0)
    assert repr(basis) == "<TuckerBasis of gradients [4, 3], cores [4, 3]>"


def test_members_leave():
    group = Group(density=1)
    weights = [np.zeros((2, 2), np.float32) for _ in range(3)]
    for w in weights:
        group.add_weight(w)
    group.remove(1)
    assert len(group) == 2
    group.set_gradient(1, np.ones((2, 2), np.float32))
    group.step(learning_rate=0.5)
    assert weights[2].all() and not weights[1].any() and not weights[0].any()


def test_not_finite():
    w = np.ones((2, 2), np.float32)
    bad = np.array([[1, np.nan], [1, 1]], np.float32)
    group = Group(density=1)
    group.add_weight(w, "up")
    group.set_gradient(0, bad)
    with pytest.raises(sparsegrad.NonFiniteError, match="up.*row 0, column 1"):
        group.step(learning_rate=0.1)
    with pytest.raises(ArithmeticError):  # it is still there
        group.step(learning_rate=0.1)
    group.clear()
    group.step(learning_rate=0.1)
    assert (w == 1).all()
    group = Group(density=1, non_finite="skip")
    group.add_weight(w)
    group.set_gradient(0, bad)
    assert group.step(learning_rate=0.1).skipped and (w == 1).all()


@pytest.mark.parametrize(
    "options, text",
    [
        ({"density": 0}, "density is 0"),
        ({"density": 1.5}, "density is 1.5"),
        ({"density": float("nan")}, "density is nan"),
        ({"entries": -1}, "entries"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"scope": "layer"}, "scope is 'layer', expected 'kind' or 'weight'"),
        ({"semantics": "adam"}, "semantics is 'adam'"),
        ({"overflow": "drop"}, "overflow is 'drop'"),
        ({"non_finite": "warn"}, "non_finite is 'warn'"),
        ({"dtype": "float16"}, "dtype is 'float16', expected 'float32' or 'bfloat16'"),
        ({"beta2": 1}, "beta2 is 1"),
        ({"eps": 0}, "eps is 0"),
        ({"capacity_factor": -1}, "capacity_factor"),
    ],
)
def test_options_that_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Group(**options).add_weight(np.zeros((4, 3), np.float32))


def test_calls_that_are_refused():
    group = Group(density=1)
    w = np.zeros((4, 3), np.float32)
    group.add_weight(w, "up")
    g = np.ones((4, 3), np.float32)
    group.set_gradient(0, g)
    for error, call in (
        (TypeError, lambda: group.step()),
        (TypeError, lambda: group.step(0.1)),
        (TypeError, lambda: group.step(learning_rate="0.1")),
        (ValueError, lambda: group.step(learning_rate=-1)),
        (ValueError, lambda: group.step(learning_rate=float("inf"))),
        (ValueError, lambda: group.step(learning_rate=0.1, weight_decay=float("nan"))),
        (ValueError, lambda: group.step(learning_rate=0.1, grad_scale=float("inf"))),
        (ValueError, lambda: group.set_gradient(1, g)),
        (ValueError, lambda: group.set_gradient(-1, g)),
        (TypeError, lambda: group.set_gradient(0.0, g)),
        (TypeError, lambda: group.set_gradient(2**70, g)),
        (ValueError, lambda: group.set_gradient(0, g.T.copy())),
        (ValueError, lambda: group.add_weight(np.zeros((4, 3), np.float32), "a\0b")),
        (ValueError, lambda: group.remove(7)),
        (ValueError, lambda: group.rebind(7, w)),
        (ValueError, lambda: group.rebind(0, np.zeros((3, 4), np.float32))),
        (ValueError, lambda: group.basis(-1)),
        (ValueError, lambda: group.describe_weight(1)),
        (ValueError, lambda: group.refresh("keep")),
        (ValueError, lambda: group.reserve(-1)),
        (RuntimeError, lambda: group.set_basis(0, sparsegrad.TuckerBasis.fit([g.T.copy()]))),
    ):
        with pytest.raises(error):
            call()
    assert len(group) == 1 and not w.any()
    group.step(learning_rate=0.1)
    np.testing.assert_allclose(w, -0.1, rtol=1e-5)


def test_states_that_are_refused(tmp_path):
    group = Group(density=1)
    group.add_weight(np.zeros((4, 3), np.float32))
    for error, call in (
        (OSError, lambda: group.load_file(tmp_path / "none.safetensors")),
        (OSError, lambda: group.load_file(tmp_path)),
        (OSError, lambda: group.save_file(tmp_path / "no" / "folder")),
        (TypeError, lambda: group.save_file(3)),
        (ValueError, lambda: group.save_file("a\0b")),
        (OSError, lambda: group.restore(b"")),
        (OSError, lambda: group.restore(b"x" * 1000)),
        (TypeError, lambda: group.restore("text")),
    ):
        with pytest.raises(error):
            call()
    group.save()


class Training:
    """That of examples/06_save_resume.cpp."""

    def __init__(self):
        self.w = np.zeros((32, 24), np.float32)
        self.group = Group(
            density=0.05, warmup_steps=4, context=sparsegrad.Context(threads=1, backend="eigen")
        )
        self.group.add_weight(self.w, "up")

    def run(self, first, last):
        for step in range(first, last):
            self.group.set_gradient(0, self.w + StdRandom(step).fractions(32, 24))
            self.group.step(learning_rate=0.01)


def test_states(tmp_path):
    first = Training()
    first.run(0, 20)
    state = first.group.save()
    path = tmp_path / "stat\u00e9.safetensors"
    first.group.save_file(path)
    assert path.read_bytes() == state and isinstance(state, bytes)
    saved = first.w.copy()
    first.run(20, 40)
    for restore in (
        lambda group: group.restore(state),
        lambda group: group.load_file(path),
        lambda group: group.load_file(os.fspath(path)),
        lambda group: group.load_file(os.fsencode(path)),
    ):
        other = Training()
        other.w[:] = saved
        restore(other.group)
        other.run(20, 40)
        np.testing.assert_array_equal(other.w, first.w)
    group = Group(density=0.1, warmup_steps=4)
    group.add_weight(np.zeros((32, 24), np.float32), "up")
    with pytest.raises(sparsegrad.FileError, match="density"):
        group.restore(state)
    with pytest.raises(sparsegrad.FileError):
        Training().group.restore(state[:-5])


def test_state_written_in_cpp():
    """data/06_save_resume.safetensors is what that example writes before it goes on."""
    path = pathlib.Path(__file__).parent / "data" / "06_save_resume.safetensors"
    ours = Training()
    ours.run(0, 20)
    resumed = Training()
    resumed.w[:] = ours.w
    resumed.group.load_file(path)
    assert resumed.group.describe_weight(0).steps == 16
    for training in (ours, resumed):
        training.run(20, 40)
    np.testing.assert_allclose(resumed.w, ours.w, atol=1e-4)
    # The reverse: the same tensors under the same names.
    header = lambda data: re.sub(rb"\s+$", b"", data[8 : 8 + int.from_bytes(data[:8], "little")])
    again = Training()
    again.run(0, 20)
    assert header(again.group.save()) == header(path.read_bytes())


class LinearRandom:
    """`fill` of tests/c/check.h."""

    def __init__(self, seed):
        self.state = (seed * 2654435761 + 1) % 2**32

    def matrix(self, rows, cols):
        numbers = []
        for _ in range(rows * cols):
            self.state = (self.state * 1664525 + 1013904223) % 2**32
            numbers.append((self.state >> 8) / 2**24 - 0.5)
        return np.asarray(numbers, np.float32).reshape(rows, cols)


class TrainingOfC:
    """That of `same_bits resume` in tests/c."""

    def __init__(self, dtype, weight=None):
        self.w = LinearRandom(1).matrix(24, 16) if weight is None else weight
        one = sparsegrad.Context(threads=1, backend="eigen")
        self.group = Group(density=0.2, warmup_steps=2, dtype=dtype, context=one)
        if dtype == "float32":
            self.group.add_weight(self.w, "up")
        else:
            self.group.add_weight(Bfloat16(self.w), "up", master=self.w)

    def run(self, first, last):
        for step in range(first, last):
            self.group.set_gradient(0, LinearRandom(step + 2).matrix(24, 16))
            self.group.step(learning_rate=0.01, weight_decay=0.1)


@pytest.mark.skipif("SPARSEGRAD_C_PROGRAMS" not in os.environ, reason="run.sh says where the C programs are")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("interface", ["c", "cpp"])
def test_states_pass_to_programs_in_c_and_cpp_and_back(tmp_path, interface, dtype):
    """All take the same steps; each half may be taken by another, with the same bits in both files."""
    program = pathlib.Path(os.environ["SPARSEGRAD_C_PROGRAMS"]) / "same_bits_c"
    state, weight = tmp_path / "state.safetensors", tmp_path / "weight"
    resume = lambda first, last: subprocess.run(
        [program, "resume", interface, dtype, str(first), str(last), state, weight], check=True
    )
    whole = TrainingOfC(dtype)
    whole.run(0, 6)
    resume(0, 6)
    assert state.read_bytes() == whole.group.save() and weight.read_bytes() == whole.w.tobytes()
    # Theirs goes on here.
    second = TrainingOfC(dtype, np.fromfile(weight, np.float32).reshape(24, 16))
    second.group.load_file(state)
    second.run(6, 12)
    # Ours goes on there.
    whole.group.save_file(state)
    whole.w.tofile(weight)
    resume(6, 12)
    whole.run(6, 12)
    np.testing.assert_array_equal(second.w, whole.w)
    assert weight.read_bytes() == whole.w.tobytes()
    assert state.read_bytes() == whole.group.save() == second.group.save()


def rewritten(state, change):
    """The saved state, whose header and tensors `change` has changed."""
    size = int.from_bytes(state[:8], "little")
    header = json.loads(state[8 : 8 + size])
    tensors = {
        name: state[8 + size :][slice(*entry["data_offsets"])]
        for name, entry in header.items()
        if name != "__metadata__"
    }
    change(header, tensors)
    data = b""
    for name, tensor in tensors.items():
        header[name]["data_offsets"] = [len(data), len(data) + len(tensor)]
        data += tensor
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def test_states_of_another_kind():
    """What a state says and what the group expects are named both."""
    training = TrainingOfC("float32")
    training.run(0, 4)
    state = training.group.save()
    size = int.from_bytes(state[:8], "little")
    floats = [n for n, e in json.loads(state[8 : 8 + size]).items() if e.get("dtype") == "F32"]
    assert floats
    assert len(rewritten(state, lambda header, tensors: None)) > 0

    def in_double(name):
        def change(header, tensors):
            header[name]["dtype"] = "F64"
            tensors[name] = np.frombuffer(tensors[name], np.float32).astype(np.float64).tobytes()

        return change

    def metadata(key, value):
        def change(header, tensors):
            assert key in header["__metadata__"]
            header["__metadata__"][key] = value

        return change

    other = lambda **options: Group(density=0.2, warmup_steps=2, **options)
    two, share, adam = other(), Group(density=0.4, warmup_steps=2), other(beta1=0.5)
    for group in (two, share, adam):
        group.add_weight(np.zeros((24, 16), np.float32), "up")
    two.add_weight(np.zeros((24, 16), np.float32), "up")
    kind, extents = other(), other()
    kind.add_weight(np.zeros((24, 16), np.float32), "down")
    extents.add_weight(np.zeros((16, 24), np.float32), "up")
    into = TrainingOfC("float32").group
    into.restore(rewritten(state, lambda header, tensors: None))
    for group, change, text in (
        *((into, in_double(name), f"tensor '{name}' has dtype F64, expected F32") for name in floats),
        (
            into,
            metadata("type", "sparse_grad_group 2"),
            "is a 'sparse_grad_group 2', expected a 'sparse_grad_group 1'",
        ),
        (share, None, "weight 0 ('up'): the saved state was made with 77 kept entries a step, expected 154"),
        (adam, None, "weight 0 ('up'): the saved state was made with beta1 0.9, expected 0.5"),
        (two, None, "the saved state has 1 weights, expected 2"),
        (kind, None, "weight 0 ('down'): the saved kind is 'up', expected 'down'"),
        (extents, None, "weight 0 ('up'): the saved basis is 24x16, expected 16x24 (out x in of the weight)"),
    ):
        with pytest.raises(sparsegrad.FileError, match=re.escape(text)):
            group.restore(rewritten(state, change) if change else state)


def test_a_state_is_in_float_whatever_type_the_weights_have():
    full = TrainingOfC("float32")
    full.run(0, 4)
    narrow = TrainingOfC("bfloat16", full.w.copy())
    narrow.group.restore(full.group.save())
    for training in (full, narrow):
        training.run(4, 8)
    np.testing.assert_array_equal(narrow.w, full.w)


def test_errors_name_the_weight():
    """In the caller's terms: what add_weight added is a weight, with its number and kind."""
    w = [np.zeros((4, 3), np.float32) for _ in range(2)]
    group = Group(density=1)
    group.add_weight(w[0])
    group.add_weight(w[1], "up")
    group.add_layer(sparsegrad.Layer(np.zeros((4, 3), np.float32)), "mlp")
    g = np.ones((4, 3), np.float32)
    bad = np.full((4, 3), np.nan, np.float32)

    def step_with(index, gradient):
        try:
            group.set_gradient(index, gradient)
            group.step(learning_rate=0.1)
        finally:
            group.clear()

    def set_basis_amid_a_step():
        try:
            group.set_gradient(1, g)
            group.set_basis(1, None)
        finally:
            group.clear()

    for error, text, call in (
        (ArithmeticError, "weight 0: the core gradient of 4x3 holds NaN", lambda: step_with(0, bad)),
        (ArithmeticError, "weight 1 ('up'): the core gradient of 4x3 holds NaN", lambda: step_with(1, bad)),
        (ValueError, "weight 0: dW is 3x4, expected 4x3", lambda: group.set_gradient(0, g.T.copy())),
        (ValueError, "weight 1 ('up'): the weight overlaps dW", lambda: group.set_gradient(1, w[1])),
        (RuntimeError, "layer 2 ('mlp') makes its own gradient", lambda: group.set_gradient(2, g)),
        (ValueError, "index is 3, expected 0 <= index < 3, the weights of the group", lambda: group.basis(3)),
        (ValueError, "memory in common with that of weight 0,", lambda: group.add_weight(w[0], "again")),
        (ValueError, "weight 1 ('up'): weight is 3x4, expected 4x3", lambda: group.rebind(1, g.T.copy())),
        (ValueError, "weight 1 ('up'): rebind: the weight has memory in common", lambda: group.rebind(1, w[0])),
        (RuntimeError, "weight 1 ('up') holds a gradient of this step", set_basis_amid_a_step),
        (RuntimeError, "step: the group is empty", lambda: Group().step(learning_rate=0.1)),
        (
            ValueError,
            "weight 1 ('up'): basis is 3x4, expected 4x3 (out x in of the weight)",
            lambda: group.set_basis(1, sparsegrad.TuckerBasis.fit([g.T.copy()])),
        ),
    ):
        with pytest.raises(error, match=re.escape(text)):
            call()
    group.remove(0)
    with pytest.raises(ArithmeticError, match=re.escape("weight 0 ('up'): the core")):
        step_with(0, bad)
