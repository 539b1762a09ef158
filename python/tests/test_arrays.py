"""What arrays are taken, without a copy, and how others are refused."""

import array
import ctypes

import numpy as np
import pytest

import sparsegrad
from sparsegrad import Group, top_k


class Lent:
    """A numpy array that is lent by DLPack alone."""

    def __init__(self, of, device=(1, 0), versioned=True):
        self.of = of
        self.device = device
        self.versioned = versioned
        self.calls = []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **keywords):
        self.calls.append(keywords)
        if not self.versioned and keywords:
            raise TypeError("unexpected keyword argument 'max_version'")
        return self.of.__dlpack__(**keywords)


def test_a_weight_is_trained_where_it_is(random):
    for wrap in (lambda a: a, Lent, lambda a: Lent(a, versioned=False), memoryview):
        w = random.standard_normal((4, 3)).astype(np.float32)
        before = w.copy()
        group = Group(density=1)
        index = group.add_weight(wrap(w))
        group.set_gradient(index, wrap(np.ones((4, 3), np.float32)))
        group.step(learning_rate=0.1)
        np.testing.assert_allclose(w, before - 0.1, atol=1e-6)


def test_rows_with_gaps(random):
    block = random.standard_normal((4, 9)).astype(np.float32)
    before = block.copy()
    group = Group(density=1)
    group.add_weight(block[:, 2:5])
    group.set_gradient(0, np.ones((4, 6), np.float32)[:, ::1][:, :3])
    group.step(learning_rate=0.1)
    before[:, 2:5] -= np.float32(0.1)
    np.testing.assert_allclose(block, before, atol=1e-6)
    # Every other row, one row, one column: all row by row.
    for view in (block[::2], block[:1, :], block[:, :1], block[:1, :1], block[3:][::-1]):
        Group().add_weight(view)


def test_stored_as_the_transpose(random):
    w = random.standard_normal((3, 4)).astype(np.float32)  # [in, out]
    turned = w.T.copy()
    g = random.standard_normal((4, 3)).astype(np.float32)
    group = Group(density=0.5, warmup_steps=1)
    group.add_weight(w, "a", layout="in_out")
    group.add_weight(turned, "a")
    for _ in range(3):
        group.set_gradient(0, g.T.copy())
        group.set_gradient(1, g)
        group.step(learning_rate=0.1)
    np.testing.assert_allclose(w.T, turned, atol=1e-6)
    with pytest.raises(sparsegrad.ShapeError, match="pass its transpose, if that is how it is stored, with layout"):
        group.add_weight(w.T)


@pytest.mark.parametrize(
    "given, error, text",
    [
        (None, TypeError, "the weight is None"),
        ([[1.0]], TypeError, "the weight is a list, expected an array of float32"),
        ("weight", TypeError, "the weight is a str"),
        (np.float32(1), ValueError, "read-only|no dimension"),
        (np.zeros((2, 3)), TypeError, "the weight is of float64"),
        (np.zeros((2, 3), np.int32), TypeError, "the weight is of int32"),
        (np.zeros((2, 3), bool), TypeError, "the weight is of bool"),
        (np.zeros((2, 3), ">f4"), TypeError, "the weight is of >f4"),
        (np.zeros((2, 3), np.complex64), TypeError, "the weight is of complex64"),
        (np.zeros((2, 3), object), TypeError, "the weight is of object"),
        (np.zeros((2, 3), "f4,f4"), TypeError, "the weight is of"),
        (np.zeros((2, 3), np.float16), ValueError, "the weight is of float16, expected float32"),
        (np.zeros(6, np.float32), ValueError, "1 dimension \\[6\\], expected 2 \\[out, in\\]"),
        (np.zeros((), np.float32), ValueError, "no dimension, expected 2"),
        (np.zeros((2, 3, 4), np.float32), ValueError, "3 dimensions \\[2, 3, ...\\]"),
        (np.zeros((0, 3), np.float32), ValueError, "0x3"),
        (np.zeros((3, 0), np.float32), ValueError, "3x0"),
        (np.zeros((2, 3), np.float32, order="F"), ValueError, "strides of 1 and 2 elements"),
        (np.zeros((4, 6), np.float32)[:, ::2], ValueError, "strides of 6 and 2 elements"),
        (np.zeros((4, 6), np.float32)[::-1], ValueError, "strides of -6 and 1"),
        (np.zeros((4, 6), np.float32)[:, ::-1], ValueError, "strides of 6 and -1"),
        (np.broadcast_to(np.zeros(3, np.float32), (2, 3)), ValueError, "strides|read-only"),
        (np.lib.stride_tricks.as_strided(np.zeros(9, np.float32), (3, 3), (8, 4)), ValueError, "strides of 2 and 1"),
        (np.zeros((2, 3), [("a", "<f4"), ("b", "u1")])["a"], ValueError, "5|15|bytes between"),
        (np.zeros(25, np.uint8)[1:].view(np.float32).reshape(2, 3), ValueError, "multiple of 4"),
        (np.ma.zeros((2, 3), np.float32), TypeError, "masked array"),
        (array.array("f", [1, 2]), ValueError, "1 dimension"),
        (b"12345678", TypeError, "format 'B'"),
        (Lent(np.zeros((2, 3))), TypeError, "of DLPack's type \\(2, 64 bits\\)"),
        (Lent(np.zeros((2, 3), np.float32), device=(2, 0)), TypeError, "on device \\(2, 0\\)"),
    ],
)
def test_weights_that_are_refused(given, error, text):
    group = Group()
    with pytest.raises(error, match=text):
        group.add_weight(given)
    assert len(group) == 0


def test_read_only_arrays(random):
    fixed = random.standard_normal((4, 3)).astype(np.float32)
    fixed.setflags(write=False)
    for lent in (fixed, Lent(fixed)):
        with pytest.raises(ValueError, match="read-only"):
            Group().add_weight(lent)
        assert len(top_k(lent, 2).positions) == 2  # reading needs no more
    w = np.zeros((4, 3), np.float32)
    group = Group(density=1)
    group.add_weight(w)
    group.set_gradient(0, fixed)
    group.step(learning_rate=0.1)
    assert w.any()


def test_objects_that_lend_nothing():
    class Liar:
        def __init__(self, result):
            self.result = result

        def __dlpack__(self, **_):
            if isinstance(self.result, Exception):
                raise self.result
            return self.result

    for result, text in ((3, "no DLPack capsule"), (None, "no DLPack capsule"), (BufferError("on loan"), "on loan")):
        with pytest.raises(TypeError, match=text):
            top_k(Liar(result), 1)
    core = np.ones((2, 3), np.float32)
    once = core.__dlpack__()
    top_k(Liar(once), 1)
    with pytest.raises(TypeError, match="no DLPack capsule"):  # a capsule is good for one loan
        top_k(Liar(once), 1)


def test_devices_that_make_no_sense():
    core = np.ones((2, 3), np.float32)
    for device in (None, (), ("a", 0), (2**70, 0), (-1, 0), (2, 0)):
        with pytest.raises((TypeError, IndexError, ValueError)):
            top_k(Lent(core, device=device), 1)

    class Interrupted(Lent):
        def __dlpack_device__(self):
            raise self.of

    with pytest.raises(TypeError, match="without memory \\(no such device\\)"):
        top_k(Interrupted(RuntimeError("no such device")), 1)
    with pytest.raises(KeyboardInterrupt):  # not taken for a fault of the array
        top_k(Interrupted(KeyboardInterrupt()), 1)


def test_bfloat16_of_numpy():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    core = np.arange(6, dtype=np.float32).reshape(2, 3)
    rounded = core.astype(ml_dtypes.bfloat16)
    assert top_k(rounded, 2).values.tolist() == [4, 5]
    assert top_k(rounded[:, :2], 1).values.tolist() == [4]
    w, master = rounded.copy(), core.copy()
    group = Group(dtype="bfloat16", density=1)
    group.add_weight(w, master=master)
    group.set_gradient(0, np.ones((2, 3), ml_dtypes.bfloat16))
    group.step(learning_rate=0.5)
    np.testing.assert_allclose(master, core - 0.5, atol=1e-6)
    np.testing.assert_array_equal(w, master.astype(ml_dtypes.bfloat16))


class Bfloat16:
    """bfloat16 numbers, in memory that is lent by DLPack alone."""

    class Tensor(ctypes.Structure):
        _fields_ = [
            ("data", ctypes.c_void_p),
            ("device", ctypes.c_int32 * 2),
            ("ndim", ctypes.c_int32),
            ("code", ctypes.c_uint8),
            ("bits", ctypes.c_uint8),
            ("lanes", ctypes.c_uint16),
            ("shape", ctypes.POINTER(ctypes.c_int64)),
            ("strides", ctypes.POINTER(ctypes.c_int64)),
            ("byte_offset", ctypes.c_uint64),
            ("manager", ctypes.c_void_p),
            ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ]

    def __init__(self, numbers):
        self.bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        self.freed = 0
        self.loans = []

    def numbers(self):
        return (self.bits.astype(np.uint32) << 16).view(np.float32)

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **_):
        def freed(_):
            self.freed += 1

        shape = (ctypes.c_int64 * 2)(*self.bits.shape)
        tensor = self.Tensor(
            data=self.bits.ctypes.data - 6,
            device=(1, 0),
            ndim=2,
            code=4,
            bits=16,
            lanes=1,
            shape=shape,
            byte_offset=6,
            deleter=ctypes.CFUNCTYPE(None, ctypes.c_void_p)(freed),
        )
        self.loans.append((tensor, shape))
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(tensor), b"dltensor", None)


def test_bfloat16_by_dlpack():
    master = np.arange(6, dtype=np.float32).reshape(2, 3)
    w = Bfloat16(np.zeros((2, 3), np.float32))
    group = Group(dtype="bfloat16", density=1)
    group.add_weight(w, master=master)
    np.testing.assert_array_equal(w.numbers(), master)  # it becomes its rounded master
    gradient = Bfloat16(np.ones((2, 3), np.float32))
    group.set_gradient(0, gradient)
    assert gradient.freed == 0
    group.step(learning_rate=0.5)
    assert gradient.freed == 1 and w.freed == 0
    np.testing.assert_allclose(master, np.arange(6).reshape(2, 3) - 0.5, atol=1e-6)
    del group
    assert w.freed == 1


@pytest.mark.parametrize(
    "master, error, text",
    [
        (None, ValueError, "master"),
        (np.zeros((2, 2), np.float32), ValueError, "the master is 2x2, expected 2x3"),
        (np.zeros((2, 3), np.float16), ValueError, "expected float32"),
        (np.zeros((2, 3)), TypeError, "the master is of float64"),
    ],
)
def test_masters_that_are_refused(master, error, text):
    w = Bfloat16(np.zeros((2, 3), np.float32))
    with pytest.raises(error, match=text):
        Group(dtype="bfloat16").add_weight(w, master=master)


def test_weight_and_type_of_the_group():
    with pytest.raises(ValueError, match="bfloat16"):
        Group().add_weight(Bfloat16(np.zeros((2, 3), np.float32)))
    with pytest.raises(ValueError, match="has a master"):
        Group().add_weight(np.zeros((2, 3), np.float32), master=np.zeros((2, 3), np.float32))
    w = np.zeros((2, 3), np.float32)
    group = Group()
    group.add_weight(w)
    with pytest.raises(ValueError):  # the same memory twice
        group.add_weight(w)


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(4, 3))
    group = Group(density=1)
    group.add_weight(parameter)
    with pytest.raises(TypeError, match="the gradient is None"):
        group.set_gradient(0, parameter.grad)
    (parameter.sum() * 2).backward()
    group.set_gradient(0, parameter.grad)
    group.step(learning_rate=0.1)
    assert torch.allclose(parameter, torch.full((4, 3), -0.1))
    with pytest.raises(ValueError, match="requires grad.*detach"):
        top_k(parameter, 2)
    for tensor, text in (
        (torch.zeros(3, 4, dtype=torch.float64), "torch.float64"),
        (torch.zeros(3, 4, device="meta"), "meta"),
        (torch.zeros(3, 4).to_sparse(), "torch.strided"),
        (torch.zeros(3, 4, dtype=torch.complex64), "torch.complex64"),
    ):
        with pytest.raises(TypeError, match=text):
            top_k(tensor, 2)
    with pytest.raises(ValueError, match="negative view"):
        top_k(torch._neg_view(torch.zeros(3, 4)), 2)
    half = torch.ones(2, 2, dtype=torch.bfloat16)
    assert top_k(half, 1).values.tolist() == [1]


def test_a_tensor_whose_numbers_moved():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(4, 3))
    group = Group(density=1)
    group.add_weight(parameter)
    gradient = np.ones((4, 3), np.float32)
    group.set_gradient(0, gradient)
    parameter.data = torch.ones(4, 3)
    with pytest.raises(sparsegrad.StateError, match="elsewhere.*rebind"):
        group.step(learning_rate=0.1)
    group.rebind(0, parameter)
    group.step(learning_rate=0.1)
    assert torch.allclose(parameter, torch.full((4, 3), 0.9))
