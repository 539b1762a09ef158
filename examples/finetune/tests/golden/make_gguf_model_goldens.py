#!/usr/bin/env python3
"""Writes tests/golden/gguf/llama.gguf and qwen2.gguf: tiny random models as llama.cpp's convert_hf_to_gguf.py stores
them, and model.json: their values under Hugging Face's names, with rows as Hugging Face has them. Also heads8.gguf and
heads8.json, q and k of a model with heads of 8: from there on the order of rows is not its own inverse. Needs: pip
install gguf."""
import json
import pathlib

import gguf
import numpy as np

folder = pathlib.Path(__file__).resolve().parent / "gguf"
random = np.random.default_rng(3)
HIDDEN, WIDE, HEADS, KV_HEADS, HEAD, VOCAB, BLOCKS = 8, 12, 4, 2, 4, 10, 2


def permute(weights, heads):
    """convert_hf_to_gguf.py, LlamaModel.permute"""
    return (weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
            .swapaxes(1, 2).reshape(weights.shape))


def values(*shape):
    return random.standard_normal(shape).astype(np.float32)


def factors(base, factor):
    """The divisors of LLaMA-3's scaling, as convert_hf_to_gguf.py writes them."""
    out = []
    for i in range(0, HEAD, 2):
        wave = 2 * np.pi * base**(i / HEAD)
        smooth = (8192 / wave - 1) / 3
        out.append(1 if wave < 8192 / 4 else factor if wave > 8192 else 1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


goldens = {}
for family in ("llama", "qwen2"):
    writer = gguf.GGUFWriter(folder / f"{family}.gguf", family)
    writer.add_context_length(32)
    writer.add_block_count(BLOCKS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0 if family == "llama" else 1000000.0)
    writer.add_key_length(HEAD)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    tensors = {}

    def add(name, theirs, array):
        tensors[name] = array.reshape(-1).tolist()
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        writer.add_tensor(theirs, np.ascontiguousarray(permute(array, heads)) if heads and family == "llama" else array)

    add("model.embed_tokens.weight", "token_embd.weight", values(VOCAB, HIDDEN))
    add("model.norm.weight", "output_norm.weight", values(HIDDEN))
    if family == "llama":
        add("lm_head.weight", "output.weight", values(VOCAB, HIDDEN))
        writer.add_tensor("rope_freqs.weight", factors(500000.0, 8.0))
    for block in range(BLOCKS):
        ours, theirs = f"model.layers.{block}.", f"blk.{block}."
        add(ours + "input_layernorm.weight", theirs + "attn_norm.weight", values(HIDDEN))
        add(ours + "post_attention_layernorm.weight", theirs + "ffn_norm.weight", values(HIDDEN))
        for kind, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            add(f"{ours}self_attn.{kind}_proj.weight", f"{theirs}attn_{kind}.weight", values(heads * HEAD, HIDDEN))
            add(f"{ours}self_attn.{kind}_proj.bias", f"{theirs}attn_{kind}.bias", values(heads * HEAD))
        add(ours + "self_attn.o_proj.weight", theirs + "attn_output.weight", values(HIDDEN, HEADS * HEAD))
        add(ours + "mlp.gate_proj.weight", theirs + "ffn_gate.weight", values(WIDE, HIDDEN))
        add(ours + "mlp.up_proj.weight", theirs + "ffn_up.weight", values(WIDE, HIDDEN))
        add(ours + "mlp.down_proj.weight", theirs + "ffn_down.weight", values(HIDDEN, WIDE))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    goldens[family] = tensors
(folder / "model.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")

writer = gguf.GGUFWriter(folder / "heads8.gguf", "llama")
writer.add_context_length(32)
writer.add_block_count(1)
writer.add_embedding_length(4)
writer.add_feed_forward_length(4)
writer.add_head_count(2)
writer.add_head_count_kv(1)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_key_length(8)
writer.add_tensor("token_embd.weight", values(3, 4))
tensors = {}
for kind, heads in (("q", 2), ("k", 1)):
    for part, shape in (("weight", (heads * 8, 4)), ("bias", (heads * 8,))):
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        tensors[f"model.layers.0.self_attn.{kind}_proj.{part}"] = array.reshape(-1).tolist()
        writer.add_tensor(f"blk.0.attn_{kind}.{part}", np.ascontiguousarray(permute(array, heads)))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
(folder / "heads8.json").write_text(json.dumps(tensors, separators=(",", ":")) + "\n")
