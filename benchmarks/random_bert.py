#!/usr/bin/env python3
"""A BERT of any size with random weights, for measuring time and memory where no pretrained one is at hand.

    random_bert.py FOLDER [--size base|large|small]

Writes FOLDER/config.json, vocab.txt (single characters and fillers) and model.safetensors, in the layout that transformers reads.
Weights are of magnitude 1/64 to 1/32 with random signs; LayerNorms are 1, biases 0. Needs nothing but Python.
"""

import argparse
import json
import math
import os
import pathlib
import struct

SIZES = {"small": (2, 64, 4, 1000), "base": (12, 768, 12, 30522), "large": (24, 1024, 16, 30522)}  # layers, width, heads, vocabulary
POSITIONS = 512


def tensors(layers, width, vocabulary):
    """(name, shape, kind of its numbers)"""
    yield "bert.embeddings.word_embeddings.weight", (vocabulary, width), "random"
    yield "bert.embeddings.position_embeddings.weight", (POSITIONS, width), "random"
    yield "bert.embeddings.token_type_embeddings.weight", (2, width), "random"
    norms = ["bert.embeddings.LayerNorm"]
    linear = []
    for layer in range(layers):
        at = f"bert.encoder.layer.{layer}."
        linear += [(at + f"attention.self.{name}", width, width) for name in ("query", "key", "value")]
        linear += [(at + "attention.output.dense", width, width)]
        linear += [(at + "intermediate.dense", 4 * width, width), (at + "output.dense", width, 4 * width)]
        norms += [at + "attention.output.LayerNorm", at + "output.LayerNorm"]
    linear += [("bert.pooler.dense", width, width)]
    for name in norms:
        yield name + ".weight", (width,), "one"
        yield name + ".bias", (width,), "zero"
    for name, out, inner in linear:
        yield name + ".weight", (out, inner), "random"
        yield name + ".bias", (out,), "zero"


def numbers(count, kind):
    """`count` floats, little-endian."""
    if kind == "zero":
        return bytes(4 * count)
    if kind == "one":
        return struct.pack("<f", 1.0) * count
    # Sign and mantissa of each number from random bits, its exponent fixed: one operation on a long integer for all of them.
    kept = int.from_bytes(struct.pack("<I", 0x807FFFFF) * count, "little")
    exponent = int.from_bytes(struct.pack("<f", 1 / 64) * count, "little")
    return (int.from_bytes(os.urandom(4 * count), "little") & kept | exponent).to_bytes(4 * count, "little")


def write(folder, size):
    layers, width, heads, vocabulary = SIZES[size]
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    words += [f"[unused{i}]" for i in range(vocabulary - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    header, end = {}, 0
    for name, shape, _ in tensors(layers, width, vocabulary):
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _, shape, kind in tensors(layers, width, vocabulary):
            file.write(numbers(math.prod(shape), kind))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--size", choices=SIZES, default="base")
    a = parser.parse_args()
    write(a.folder, a.size)


if __name__ == "__main__":
    main()
