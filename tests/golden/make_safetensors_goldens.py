#!/usr/bin/env python3
"""Writes tests/golden/safetensors_verdicts.json: small files, and whether the safetensors library takes them and what it
reads in them. Needs safetensors 0.8 and numpy; the test needs neither.

    python3 tests/golden/make_safetensors_goldens.py

More than that, by hand (half a minute for 100 000 of each kind):

    python3 tests/golden/make_safetensors_goldens.py --random 100000 --output /tmp/verdicts.json
    SPARSEGRAD_SAFETENSORS_VERDICTS=/tmp/verdicts.json ctest --test-dir build/release -R unit_safetensors_verdicts
"""

import argparse
import json
import pathlib
import random
import struct
import tempfile

import safetensors

X = '"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
# Bits of an element; the last ones are not of the format.
DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
          "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
          "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
          "F8_E3M4": 8, "C128": 128, "I4": 4, "U4": 4, "F6": 6, "F4_E2M1": 4, "f32": 32, "": 8}


def file_of(header, data=b""):
    """`data` is bytes, or how many there are to be."""
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header)) + header + (data if isinstance(data, bytes) else bytes(range(data)))


def entry(text, data=4):
    """A file of one tensor whose entry has this text before the usual keys."""
    return file_of('{"x":{' + text + '"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', data)


def by_hand():
    for name, bits in DTYPES.items():
        for shape, count in (([2, 4], 8), ([4], 4), ([3], 3), ([], 1), ([0, 3], 0)):
            size = (count * bits + 7) // 8
            head = json.dumps({"x": {"dtype": name, "shape": shape, "data_offsets": [0, size]}})
            yield file_of(head, size)
    yield file_of("{}")
    yield file_of("{}", 4)
    yield file_of("")
    yield b""
    yield b"\0" * 7
    yield struct.pack("<Q", 100_000_001) + b"{}"
    yield struct.pack("<Q", 2**63) + b"{}"
    yield struct.pack("<Q", 3) + b"{}"
    for before, after in ((" ", ""), ("\n", ""), ("", " "), ("", "\t\r\n "), ("", "\0"), ("", "\0\0\0"), ("", "x"),
                          ("\ufeff", ""), ("", "{}")):
        yield file_of(before + "{" + X + "}" + after, 4)
    for metadata in ("null", "{}", "[]", "1", '"a"', '{"a":"b"}', '{"a":"b","c":"d \\u00e9 \\" é"}', '{"a":null}', '{"a":1}',
                     '{"a":{}}', '{"a":"1","a":"2"}', '{},"__metadata__":{}', 'null,"__metadata__":null',
                     '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'):
        yield file_of('{"__metadata__":' + metadata + "," + X + "}", 4)
        yield file_of("{" + X + ',"__metadata__":' + metadata + "}", 4)
    for value in ("1", "-1", "-0", "1.5", "1e300", "1e999", "1e-999", "01", "+1", "null", "true", "nul", '"F16"', '"\\ud800"',
                  '"\\ud83d\\ude00"', '"\\x"', "[]", "{}", "[1,{}]", "[1,]", '{"a":1,"a":2}', '{"dtype":"F16"}', "123456789" * 9,
                  "[" * 125 + "]" * 125, "[" * 126 + "]" * 126, '{"a":' * 125 + "1" + "}" * 125):
        yield entry('"more":' + value + ",")
    yield entry('"more":1,"more":2,')
    yield entry('"":1,')
    yield entry('"dtype":"F32",')
    yield entry('"shape":[1],')
    yield entry('"data_offsets":[0,4],')
    yield file_of('{"x":{"shape":[1],"data_offsets":[0,4]}}', 4)
    yield file_of('{"x":{"dtype":"F32","data_offsets":[0,4]}}', 4)
    yield file_of('{"x":{"dtype":"F32","shape":[1]}}', 4)
    for tensor in ("null", "1", "[]", '["F32",[1],[0,4]]', "{}", '"F32"'):
        yield file_of('{"x":' + tensor + "}", 4)
    for dtype in ("null", "1", '{"F32":null}', '["F32"]', '"\\u00463\\u0032"'):
        yield file_of('{"x":{"dtype":' + dtype + ',"shape":[1],"data_offsets":[0,4]}}', 4)
    shapes = ("null", "1", "[-1]", "[1.0]", "[1e0]", "[01]", "[true]", '["1"]', "[[1]]", "[2]", "[0]", "[1,1,1,1,1,1,1,1]", "[1" + ",1" * 63 + "]",
              "[1" + ",1" * 64 + "]", "[9223372036854775807]", "[9223372036854775808]", "[18446744073709551616]", "[-0]")
    for shape in shapes:
        yield file_of('{"x":{"dtype":"F32","shape":' + shape + ',"data_offsets":[0,4]}}', 4)
    for shape in ("[0,18446744073709551615]", "[0,9223372036854775807]", "[2305843009213693952,2,0]", "[4611686018427387904,3,0]",
                  "[4611686018427387904,4,0]", "[9223372036854775807,2,0]", "[4294967296,4294967296,0]", "[0]", "[3,0,2]"):
        yield file_of('{"x":{"dtype":"F32","shape":' + shape + ',"data_offsets":[0,0]}}')
    for offsets in ("null", "0", "[0]", "[0,4,8]", "[]", "[4,0]", "[-4,0]", "[0,4.0]", "[0,5]", "[0,3]", "[1,5]", "[0,8]", "[4,8]",
                    "[18446744073709551612,18446744073709551616]", "[9223372036854775803,9223372036854775807]"):
        yield file_of('{"x":{"dtype":"F32","shape":[1],"data_offsets":' + offsets + "}}", 4)
    yield file_of("{" + X + "}", 3)
    yield file_of("{" + X + "}", 5)
    y = '"y":{"dtype":"F16","shape":[2],"data_offsets":'
    for offsets in ("[4,8]", "[0,4]", "[2,6]", "[5,9]", "[8,12]", "[3,7]"):
        yield file_of("{" + X + "," + y + offsets + "}}", 8)
        yield file_of("{" + y + offsets + "}," + X + "}", 9)
    nothing = ':{"dtype":"F32","shape":[0],"data_offsets":'
    for offsets in ("[0,0]", "[2,2]", "[4,4]", "[5,5]"):
        yield file_of("{" + X + ',"a"' + nothing + offsets + '},"b"' + nothing + "[4,4]}}", 4)
    yield file_of("{" + X + "," + X + "}", 4)
    yield file_of('{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},' + X + "}", 4)
    yield file_of('{"\\u0078":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' + X + "}", 4)
    for name in (b"", b"\\u0000", b"\\uffff", b"\\n", "é".encode(), b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x01", b"\x7f", b"\\/", b"'"):
        yield file_of(b'{"' + name + b'":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4)
    yield file_of("{/**/" + X + "}", 4)
    yield file_of("{" + X + ",}", 4)
    yield file_of("{" + X, 4)
    yield file_of("[{" + X + "}]", 4)
    yield file_of("{'x':1}", 4)


def mutated(count, seed=1):
    """Small changes of valid headers; with the length put right in most of them, so that the JSON is what is wrong."""
    rng = random.Random(seed)
    valid = [b"{" + X.encode() + b"}",
             b'{"__metadata__":{"format":"pt"},"a.b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},'
             b'"c":{"dtype":"F4","shape":[4],"data_offsets":[12,14]},"d":{"dtype":"I64","shape":[],"data_offsets":[14,22]}}  ',
             b'{"x":{"dtype":"U16","extra":{"a":[1,"b",null]},"shape":[0,7],"data_offsets":[0,0]},"__metadata__":null}']
    data = [4, 22, 0]
    letters = b'{}[],:"0123456789-.eE FIUB\\nult'
    for _ in range(count):
        which = rng.randrange(len(valid))
        head = bytearray(valid[which])
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            at = rng.randrange(len(head))
            kind = rng.randrange(6)
            if kind == 0:
                head[at] = rng.randrange(256)
            elif kind == 1:
                head[at] = rng.choice(letters)
            elif kind == 2:
                head.insert(at, rng.choice(letters))
            elif kind == 3 and len(head) > 1:
                del head[at]
            elif kind == 4:
                number = str(rng.choice([0, 1, 2, 3, 4, 12, 14, 22, 2**31, 2**63 - 1, 2**63, 2**64]))
                head[at:at + 1] = number.encode()
            else:
                head[at:at] = head[at:at + rng.randint(1, 30)]
        size = data[which] + (rng.choice([-1, 0, 0, 0, 1]) if rng.randrange(4) == 0 else 0)
        file = bytearray(file_of(bytes(head), max(0, size)))
        if rng.randrange(10) == 0:
            file[rng.randrange(8)] ^= 1 << rng.randrange(8)
        yield bytes(file)


def arranged(count, seed=2):
    """Headers of several tensors in any order, with what else may stand in one; about half of them have a fault."""
    rng = random.Random(seed)
    known = list(DTYPES)[:22]
    extras = ["1", "null", '"a"', "[]", '{"b":[1.5,{}]}', "true", "-3e2"]
    for _ in range(count):
        begin, entries, metadata = 0, [], []
        for number in range(rng.randrange(4)):
            dtype = rng.choice(known)
            shape = [rng.choice([0, 1, 2, 3, 4, 8]) for _ in range(rng.randrange(4))]
            bits = DTYPES[dtype]
            for extent in shape:
                bits *= extent
            end = begin + bits // 8 + (rng.choice([-1, 1, 4]) if rng.randrange(12) == 0 else 0)
            keys = ['"dtype":"%s"' % dtype, '"shape":' + json.dumps(shape), '"data_offsets":' + json.dumps([begin, end])]
            if rng.randrange(3) == 0:
                keys.append('"k%d":%s' % (rng.randrange(2), rng.choice(extras)))
            if rng.randrange(40) == 0:
                del keys[rng.randrange(3)]
            rng.shuffle(keys)
            entries.append('"t%d":{%s}' % (number, ",".join(keys)))
            begin = end + (1 if rng.randrange(40) == 0 else 0)
        if rng.randrange(3) == 0:
            metadata = ['"__metadata__":' + rng.choice(["null", "{}", '{"a":"b"}', '{"a":"b","c":""}', '{"a":null}'])]
        everything = entries + metadata
        rng.shuffle(everything)
        size = max(0, begin) + (rng.choice([-1, 1]) if rng.randrange(20) == 0 else 0)
        yield file_of("{" + ",".join(everything) + "}" + " " * rng.randrange(4), max(0, size) % 256)


def verdict(file, path):
    result = {"file": file.hex()}
    try:
        tensors = safetensors.deserialize(file)
    except safetensors.SafetensorError as error:
        result["refused"] = str(error).removeprefix("Error while deserializing: ")[:80]
        return result
    result["tensors"] = {name: [t["dtype"], [str(extent) for extent in t["shape"]], bytes(t["data"]).hex()]
                         for name, t in tensors}
    path.write_bytes(file)
    with safetensors.safe_open(path, framework="numpy") as opened:
        result["metadata"] = opened.metadata() or {}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--random", type=int, default=200, help="files of each random kind")
    parser.add_argument("--output", default=pathlib.Path(__file__).with_name("safetensors_verdicts.json"), type=pathlib.Path)
    options = parser.parse_args()
    files = list(dict.fromkeys([*by_hand(), *mutated(options.random), *arranged(options.random)]))
    with tempfile.TemporaryDirectory() as folder:
        verdicts = [verdict(file, pathlib.Path(folder) / "f") for file in files]
    taken = sum("tensors" in v for v in verdicts)
    print(f"safetensors {safetensors.__version__}: {len(files)} files, {taken} taken")
    with options.output.open("w") as out:
        out.write('{"safetensors": "%s", "files": [\n' % safetensors.__version__)
        out.write(",\n".join(json.dumps(v) for v in verdicts) + "\n]}\n")


if __name__ == "__main__":
    main()
