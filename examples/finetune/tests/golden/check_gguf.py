#!/usr/bin/env python3
"""Checks by hand what `sparsegrad-llm export --format gguf` wrote of FOLDER, a model in Hugging Face form: the package
`gguf` reads metadata and tensors, whose blocks are its own quantisation of the folder's values in llama.cpp's order; and
transformers has the logits of the folder but for what the type rounds away. With --llama llama.cpp itself reads the file:
its ids and logits beside the folder's. Needs: pip install torch transformers gguf safetensors accelerate, and
llama-cpp-python for --llama.

    check_gguf.py FOLDER FILE.gguf [--llama]
"""
import argparse
import pathlib

import gguf
import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
         "lm_head.weight": "output.weight"}
BLOCK = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
TEXT = "The capital of France is Paris, and 2 + 2 = 4.\n\nIt's \u00dcber <|im_end|>\n def f(x):\n\treturn  x1024"


def permute(weights, heads):
    """convert_hf_to_gguf.py, LlamaModel.permute"""
    return (weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
            .swapaxes(1, 2).reshape(weights.shape))


def check_tensors(folder, path, config):
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    found = {t.name: t for t in reader.tensors}
    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                values = tensors.get_tensor(name).float().numpy()
                theirs = WHOLE.get(name)
                if theirs is None:
                    _, _, block, *module, part = name.split(".")
                    module = ".".join(module)
                    theirs = f"blk.{block}.{BLOCK[module]}.{part}"
                    heads = {"self_attn.q_proj": config.num_attention_heads,
                             "self_attn.k_proj": config.num_key_value_heads}.get(module)
                    if heads and architecture == "llama":
                        values = permute(values, heads)
                tensor = found.pop(theirs)
                wanted = gguf.quantize(np.ascontiguousarray(values), tensor.tensor_type)
                assert np.array_equal(np.asarray(tensor.data).view(np.uint8).reshape(-1),
                                      np.ascontiguousarray(wanted).view(np.uint8).reshape(-1)), theirs
                count += 1
    assert set(found) <= {"rope_freqs.weight"}, set(found)
    kinds = {}
    for t in reader.tensors:
        kinds[t.tensor_type.name] = kinds.get(t.tensor_type.name, 0) + 1
    print(f"gguf: {count} tensors bit by bit, {kinds}, {len(reader.fields)} fields")


def check_logits(folder, path):
    own = AutoTokenizer.from_pretrained(folder)
    read = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ids = own(TEXT, add_special_tokens=False)["input_ids"]
    same = read(TEXT, add_special_tokens=False)["input_ids"] == ids
    templates = own.chat_template == read.chat_template
    print(f"transformers: ids {'equal' if same else 'differ'}, chat template {'equal' if templates else 'differs'}")

    def logits(*where, **more):
        model = AutoModelForCausalLM.from_pretrained(*where, dtype=torch.float32, **more).eval()
        with torch.no_grad():
            return model(torch.tensor([ids])).logits

    one, other = logits(folder), logits(path.parent, gguf_file=path.name)
    print(f"transformers: logits of up to {one.abs().max():.3g} differ by {(one - other).abs().max():.2e}")
    return ids, one[0].numpy()


def check_llama(path, ids, logits):
    """llama.cpp rounds activations to the file's type: its logits are the folder's in F32 alone."""
    from llama_cpp import GGML_TYPE_F32, Llama

    model = Llama(str(path), n_ctx=len(ids) + 8, n_threads=1, logits_all=True, verbose=False, type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32)
    same = model.tokenize(TEXT.encode(), add_bos=False, special=True) == ids
    model.eval(ids)
    print(f"llama.cpp: ids {'equal' if same else 'differ'}, logits differ by {abs(np.array(model.scores[:len(ids)]) - logits).max():.2e}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("file", type=pathlib.Path)
parser.add_argument("--llama", action="store_true")
args = parser.parse_args()
check_tensors(args.folder, args.file, AutoConfig.from_pretrained(args.folder))
found = check_logits(args.folder, args.file)
if args.llama:
    check_llama(args.file, *found)
