#!/usr/bin/env python3
"""Writes tests/golden/gguf/: blocks.json, random blocks of every type that is read with the bits of their values as the
package `gguf` has them, quantised.json, values with the blocks that it makes of them, and tiny.gguf, a file that its
writer made. Needs: pip install gguf (0.19.0)."""
import json
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

folder = pathlib.Path(__file__).resolve().parent / "gguf"
folder.mkdir(exist_ok=True)
random = np.random.default_rng(7)

# Where the halves of a block's scales stand, so that they can be finite.
halves = {Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q4_K: [0, 2],
          Type.Q5_K: [0, 2], Type.Q6_K: [208]}


def finite(count, bits, exponent):
    """Random numbers of `bits` bits, none with all bits of the exponent set, subnormal ones among them."""
    values = random.integers(0, 1 << bits, count, dtype=np.uint64)
    values = np.where(values & exponent == exponent, values & ~np.uint64(exponent), values)
    values[::5] &= ~np.uint64(exponent)
    return values.astype(f"<u{bits // 8}")


def blocks(kind, count):
    if kind == Type.F32:
        return finite(count, 32, 0x7F800000).view(np.uint8)
    if kind == Type.F16:
        return finite(count, 16, 0x7C00).view(np.uint8)
    if kind == Type.BF16:
        return finite(count, 16, 0x7F80).view(np.uint8)
    out = random.integers(0, 256, (count, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    for at in halves[kind]:
        out[:, at:at + 2] = finite(count, 16, 0x7C00).view(np.uint8).reshape(count, 2)
    return out.reshape(-1)


cases = []
for kind in [Type.F32, Type.F16, Type.BF16, *halves]:
    size = gguf.GGML_QUANT_SIZES[kind][0]
    data = blocks(kind, {1: 16, 32: 6, 256: 3}[size])
    values = np.ascontiguousarray(gguf.dequantize(data.reshape(1, -1), kind), dtype="<f4")
    cases.append({"type": kind.name, "id": int(kind), "bytes": data.tobytes().hex(),
                  "bits": [f"{x:08x}" for x in values.reshape(-1).view("<u4")]})
(folder / "blocks.json").write_text(json.dumps(cases, indent=0) + "\n")

def written():
    """Values of every size that has room in 16 bits, ties, zeros and blocks of numbers near nothing."""
    draw = np.random.default_rng(11)
    values = [draw.standard_normal(32), draw.standard_normal(32) * 3e4, draw.integers(-254, 255, 32) / 2,
              np.zeros(32), draw.standard_normal(32) * 1e-39, draw.standard_normal(32) * 1e-7,
              np.where(np.arange(32) == 5, -1, 0), draw.standard_normal(32) * 10.0 ** draw.integers(-6, 4, 32)]
    values[2][0] = 127  # a scale of 1, with which halves are ties
    return np.concatenate(values).astype(np.float32)


given = written()
(folder / "quantised.json").write_text(json.dumps(
    {"bits": [f"{x:08x}" for x in given.view("<u4")],
     **{kind.name: np.ascontiguousarray(gguf.quantize(given, kind)).tobytes().hex()
        for kind in (Type.F32, Type.F16, Type.BF16, Type.Q8_0)}}, indent=0) + "\n")

writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
writer.add_custom_alignment(64)
for name, value in {"uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4000000000, "int32": -2000000000,
                    "uint64": 2**40, "int64": -2**40, "float32": 0.1, "float64": 0.1, "bool": True}.items():
    getattr(writer, f"add_{name}")(f"test.{name}", value)
writer.add_string("test.string", "Grüße, 世界 🙂")
writer.add_array("test.strings", ["a", "", "ĠĠ"])
writer.add_array("test.integers", [1, -2, 3])
writer.add_array("test.floats", [0.5, -1.5])
writer.add_array("test.bools", [True, False])
writer.add_tensor("f32", np.arange(6, dtype=np.float32).reshape(2, 3))
writer.add_tensor("f16", np.arange(4, dtype=np.float16) / 4)
writer.add_tensor("q8_0", gguf.quantize((np.arange(192, dtype=np.float32) - 96).reshape(3, 64), Type.Q8_0), raw_dtype=Type.Q8_0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
