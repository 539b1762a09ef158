#!/usr/bin/env python3
"""Writes the seeds of the library's fuzz targets into tests/fuzz/corpus/<target>/. They are committed; run it again after a
change of a file format. Files are laid out here by hand and not by the library, whose writer is under test too."""
import json
import pathlib
import struct

corpus = pathlib.Path(__file__).resolve().parent / "corpus"


def seed(target, name, content):
    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


formats = {"F64": "d", "F32": "f", "I64": "q", "I32": "i", "U8": "B"}


def safetensors(arrays, metadata=None):
    """arrays: name -> (dtype, shape, numbers)."""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, numbers) in sorted(arrays.items(), key=lambda a: -struct.calcsize(formats[a[1][0]])):
        content = struct.pack(f"<{len(numbers)}{formats[dtype]}", *numbers)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def raw(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


# ---- safetensors ---------------------------------------------------------------------------------------------------
seed("safetensors", "empty", raw(b"{}"))
seed("safetensors", "metadata", raw(b'{"__metadata__":{"format":"pt","a":"\\u00e9"}}'))
seed("safetensors", "null_metadata", raw(b'{"__metadata__":null}'))
seed("safetensors", "two", safetensors({"a": ("F32", [2, 3], [1, 2, 3, 4, 5, 6]), "b": ("I64", [1], [7])}))
seed("safetensors", "scalar_and_none", safetensors({"s": ("F64", [], [0.5]), "n": ("F32", [0, 4], [])}, {}))
seed("safetensors", "bytes", safetensors({"u": ("U8", [3], [1, 2, 255])}))
for dtype, size in (("F16", 2), ("BF16", 2), ("BOOL", 1), ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("C64", 8),
                    ("U16", 2), ("I8", 1)):
    seed("safetensors", "dtype_" + dtype,
         raw(json.dumps({"t": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * size]}}).encode(), b"\x01" * 2 * size))
seed("safetensors", "dtype_F4", raw(b'{"t":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}', b"\x12\x34"))
seed("safetensors", "unknown_key", raw(b'{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":[{"x":null}]}}', b"1"))
seed("safetensors", "deep", raw(b'{"t":' + b"[" * 300 + b"]" * 300 + b"}"))


# ---- states --------------------------------------------------------------------------------------------------------
def side(prefix, kind, extent, rank):
    arrays = {prefix + "extents": ("I64", [2], [extent, rank]),
              prefix + "spectrum": ("F64", [2], [2.0, 1.0]),
              prefix + "energy": ("F64", [2], [3.0, 0.0])}
    if kind == "hadamard":
        arrays[prefix + "signs"] = ("F", [extent], [1, -1] * (extent // 2))
    elif kind != "identity":
        arrays[prefix + "factor"] = ("F", [rank, extent], [float(i == j) for i in range(rank) for j in range(extent)])
    return arrays, {prefix + "kind": kind}


def basis(prefix, out, inner):
    arrays = {prefix + "gradients": ("I64", [1], [3]), prefix + "total_energy": ("F64", [1], [3.0])}
    metadata = {prefix + "type": "tucker_basis 1"}
    for name, one in (("out.", out), ("in.", inner)):
        more, texts = side(prefix + name, *one)
        arrays |= more
        metadata |= texts
    return arrays, metadata


def optimizer(prefix, rows, cols, index, kind="sparse_adam 1", semantics="torch", capacity=0, counted=False,
              overflow="go_dense"):
    n = rows * cols if index is None else len(index)
    adam = kind == "sparse_adam 1"
    arrays = {prefix + "extents": ("I64", [3], [rows, cols, capacity]),
              prefix + "step": ("I64", [1], [2]),
              prefix + "coefficients": ("F64", [3], [0.9, 0.999, 1e-8]) if adam else ("F64", [2], [0.9, 0]),
              prefix + "m": ("F", [n], [0.25] * n)}
    metadata = {prefix + "type": kind, prefix + "form": "dense" if index is None else "compact",
                prefix + "arrays": "m,v" if adam else "m", prefix + "numbers": "beta1,beta2,eps" if adam else "momentum,nesterov",
                prefix + "texts": "semantics,overflow" if adam else "overflow", prefix + "overflow": overflow}
    if adam:
        metadata[prefix + "semantics"] = semantics
        arrays[prefix + "v"] = ("F", [n], [0.125] * n)
    if index is not None:
        arrays[prefix + "index"] = ("I32", [n], index)
    if counted:
        arrays[prefix + "count"] = ("I32", [n], [1] * n)
    return arrays, metadata


def delta(prefix, rows, cols, index):
    n = rows * cols if index is None else len(index)
    arrays = {prefix + "extents": ("I64", [2], [rows, cols]), prefix + "values": ("F", [n], [0.5] * n)}
    if index is not None:
        arrays[prefix + "index"] = ("I32", [n], index)
    return arrays, {prefix + "type": "sparse_gradient 1", prefix + "form": "dense" if index is None else "sparse"}


def file_of(number, *parts):
    """One file of parts whose numbers are of type `number`."""
    arrays, metadata = {}, {}
    for part_arrays, part_metadata in parts:
        arrays |= {k: (number if d == "F" else d, shape, x) for k, (d, shape, x) in part_arrays.items()}
        metadata |= part_metadata
    return safetensors(arrays, metadata)


seed("state", "basis_factors", file_of("F32", basis("basis.", ("factor", 4, 2), ("random", 3, 3))))
seed("state", "basis_fast", file_of("F32", basis("basis.", ("hadamard", 4, 4), ("identity", 5, 5))))
seed("state", "adam_dense", file_of("F32", optimizer("adam.", 2, 3, None)))
seed("state", "adam_compact", file_of("F32", optimizer("adam.", 3, 4, [0, 5, 11], capacity=4)))
seed("state", "adam_counted", file_of("F32", optimizer("adam.", 3, 4, [2, 3], semantics="per_entry_step", capacity=4,
                                                       counted=True)))
seed("state", "adam_core", file_of("F32", optimizer("adam.", 2, 2, None, semantics="dense_core")))
seed("state", "sgd", file_of("F32", optimizer("sgd.", 3, 4, [1, 2], kind="sparse_sgd 1")))
seed("state", "delta", file_of("F32", delta("delta.", 3, 4, [1, 7])))
seed("state", "delta_dense", file_of("F32", delta("delta.", 2, 2, None)))


# ---- groups: layers [8, 6], [8, 6], [6, 8] as in group.cpp -----------------------------------------------------------
def group(bases, compact):
    kinds = ["up", "up", "down"]
    basis_of = [0, 0, 1]
    parts = [({"basis_of": ("I64", [3], basis_of)}, {"type": "sparse_grad_group 1"})]
    parts += [basis(f"basis.{i}.", *sides) for i, sides in enumerate(bases)]
    for i, kind in enumerate(kinds):
        rows, cols = bases[basis_of[i]][0][2], bases[basis_of[i]][1][2]
        parts.append(optimizer(f"layer.{i}.adam.", rows, cols, [0, 3] if compact else None, capacity=6 if compact else 0,
                               overflow="evict_smallest"))
        parts.append(({}, {f"layer.{i}.kind": kind, f"layer.{i}.plan": "out: project_first, in: multiply_first"}))
    parts.append(({"layer.1.residual": ("F", [bases[0][0][2] * bases[0][1][2]], [0.0] * (bases[0][0][2] * bases[0][1][2])),
                   "layer.2.support": ("I32", [2], [0, 3])}, {}))
    return file_of("F64", *parts)


identity = [(("identity", 8, 8), ("identity", 6, 6)), (("identity", 6, 6), ("identity", 8, 8))]
factors = [(("factor", 8, 4), ("factor", 6, 4)), (("random", 6, 6), ("hadamard", 8, 8))]
for name, bases in (("identity", identity), ("factors", factors)):
    for compact in (False, True):
        seed("group", f"{name}_{'compact' if compact else 'dense'}", group(bases, compact))

# ---- recipes -------------------------------------------------------------------------------------------------------
for i, text in enumerate(["identity", "full", "64", "0.95", "1.0", "1e-3", "random", "random:64", "random:64:7",
                          "random:full:7", "hadamard", "hadamard:7"]):
    seed("side_recipe", f"{i:02}", text.encode())
