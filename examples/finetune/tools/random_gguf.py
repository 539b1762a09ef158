#!/usr/bin/env python3
"""Writes a GGUF file of a LLaMA-shaped model with random weights, to see what a size takes: of memory, of time.

    tools/random_gguf.py --like SmolLM2.gguf --layers 22 --hidden 2048 --intermediate 5632 --heads 32 --kv-heads 4 \\
        --type q4_0 --output random-1b.gguf
    sparsegrad-llm inspect --model random-1b.gguf --base file

Tokenizer and chat template are those of --like. --zeros leaves the weights out of the file, which then takes no room on
the disk: for `inspect` alone. Needs the packages numpy and gguf.
"""

import argparse

import gguf
import numpy as np


def tensors(o: argparse.Namespace, vocab: int):
    """Names and [rows, cols] (or [n]) of all tensors."""
    head = o.hidden // o.heads
    yield "token_embd.weight", (vocab, o.hidden)
    for block in range(o.layers):
        for name, rows, cols in (
            ("attn_q", o.hidden, o.hidden),
            ("attn_k", o.kv_heads * head, o.hidden),
            ("attn_v", o.kv_heads * head, o.hidden),
            ("attn_output", o.hidden, o.hidden),
            ("ffn_gate", o.intermediate, o.hidden),
            ("ffn_up", o.intermediate, o.hidden),
            ("ffn_down", o.hidden, o.intermediate),
        ):
            yield f"blk.{block}.{name}.weight", (rows, cols)
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{block}.{name}.weight", (o.hidden,)
    yield "output_norm.weight", (o.hidden,)
    if not o.tied:
        yield "output.weight", (vocab, o.hidden)


def values_of(shape: tuple, kind: gguf.GGMLQuantizationType, random: np.random.Generator) -> np.ndarray:
    """Ones, or random blocks whose first two bytes are a small scale in half precision."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    bytes_ = random.integers(0, 256, (shape[0], shape[1] // block, size), dtype=np.uint8)
    bytes_[:, :, :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    if kind == gguf.GGMLQuantizationType.Q4_K:
        bytes_[:, :, 2:4] = bytes_[:, :, :2]
        bytes_[:, :, :2] = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
    return bytes_.reshape(shape[0], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", required=True, help="a GGUF file with the tokenizer")
    parser.add_argument("--output", required=True)
    parser.add_argument("--type", default="q4_0", choices=["q4_0", "q4_k", "q8_0"])
    for name, value in (("layers", 22), ("hidden", 2048), ("intermediate", 5632), ("heads", 32), ("kv-heads", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--vocab", type=int, default=0, help="rows of the embeddings (0: the tokenizer's tokens)")
    parser.add_argument("--tied", action="store_true", help="without a head of its own")
    parser.add_argument("--zeros", action="store_true", help="weights are zeros that take no room on the disk")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()

    like = gguf.GGUFReader(o.like)
    writer = gguf.GGUFWriter(o.output, "llama")
    writer.add_block_count(o.layers)
    writer.add_context_length(o.context)
    writer.add_embedding_length(o.hidden)
    writer.add_feed_forward_length(o.intermediate)
    writer.add_head_count(o.heads)
    writer.add_head_count_kv(o.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = 0
    for name, field in like.fields.items():
        if not name.startswith("tokenizer."):
            continue
        value = field.contents()
        if name == "tokenizer.ggml.tokens":
            tokens = len(value)
        kind = field.types[0]
        writer.add_key_value(name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    vocab = o.vocab or tokens
    kind = {
        "q4_0": gguf.GGMLQuantizationType.Q4_0,
        "q4_k": gguf.GGMLQuantizationType.Q4_K,
        "q8_0": gguf.GGMLQuantizationType.Q8_0,
    }[o.type]
    shapes = dict(tensors(o, vocab))
    block, size = gguf.GGML_QUANT_SIZES[kind]
    total = 0
    for name, shape in shapes.items():
        if len(shape) == 1:
            count = 4 * shape[0]
            writer.add_tensor_info(name, shape, np.dtype(np.float32), count)
        else:
            row = shape[1] // block * size
            count = shape[0] * row
            writer.add_tensor_info(name, (shape[0], row), np.dtype(np.uint8), count, kind)
        total += -(-count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(o.seed)
    if o.zeros:
        out = writer.fout[0]
        writer.write_padding(out, out.tell())
        out.truncate(out.tell() + total)
    else:
        for shape in shapes.values():
            writer.write_tensor_data(values_of(shape, kind, random))
    writer.close()


if __name__ == "__main__":
    main()
