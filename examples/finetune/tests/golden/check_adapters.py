#!/usr/bin/env python3
"""Checks by hand what `sparsegrad-llm export --format peft` and `gguf-lora` wrote: BASE with the adapter has the logits of
MODEL, the run's merged folder, in peft; the GGUF file has the adapter's numbers as llama.cpp's
convert_lora_to_gguf.py orders them. llama.cpp itself answers with the adapter in check_llama_cpp.py. Needs: pip install torch
transformers peft gguf safetensors.

    check_adapters.py BASE OUT/model PEFT_FOLDER ADAPTER.gguf
"""
import argparse
import pathlib

import gguf
import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def check_peft(base, model, peft):
    ids = torch.arange(1, 90)[None] % load(base).config.vocab_size
    with torch.no_grad():
        before = load(base)(ids).logits
        merged = load(model)(ids).logits
        beside = PeftModel.from_pretrained(load(base), peft)
        wrapped = {name.removeprefix("base_model.model.") for name, m in beside.named_modules() if hasattr(m, "lora_A")}
        adapted = beside(ids).logits
    error = (adapted - merged).abs().max().item()
    change = (merged - before).abs().max().item()
    print(f"peft: {len(wrapped)} matrices, logits differ by {error:.2e}, the run changed them by {change:.2e}")
    tensors = load_file(pathlib.Path(peft) / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(wrapped) and error < 1e-3 * change + 1e-4
    return tensors, load(base).config


def check_gguf(tensors, config, path):
    reader = gguf.GGUFReader(path)
    text = lambda key: reader.fields[key].contents()
    assert (text("general.type"), text("adapter.type")) == ("adapter", "lora"), "not an adapter"
    found = {t.name: t for t in reader.tensors}
    assert len(found) == len(tensors)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, values in tensors.items():
        parts = name.removeprefix("base_model.model.model.layers.").split(".")
        module = ".".join(parts[1:3])
        values = values.float().numpy()
        if parts[3] == "lora_B" and module in heads and text("general.architecture") == "llama":
            n = heads[module]
            values = values.reshape(n, 2, values.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(values.shape)
        tensor = found[f"blk.{parts[0]}.{NAMES[module]}.weight.{parts[3].lower()}"]
        assert list(tensor.shape) == list(values.shape[::-1]), tensor.name
        stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(values.shape)
        assert np.array_equal(stored, values), tensor.name
    print(f"gguf: {len(found)} tensors as peft's, alpha {text('adapter.lora.alpha')}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for argument in ("base", "model", "peft", "gguf"):
    parser.add_argument(argument)
args = parser.parse_args()
check_gguf(*check_peft(args.base, args.model, args.peft), args.gguf)
