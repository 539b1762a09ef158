#!/usr/bin/env python3
"""Writes the goldens of examples/finetune/tests/decoder_golden.cpp with torch, transformers and peft.

    make_decoder_goldens.py OUTPUT_DIR      (decoder_tiny, beside this script)

Tiny decoders with random weights, one folder a variant: logits, loss, every gradient, the losses of 20 AdamW steps and
greedy tokens, log likelihoods of answers to choose from; of one variant also LoRA's of peft, from adapters that are given. Each sequence is computed by itself, so
that nothing is padded; the loss is the mean over the targets of the batch that are counted. In double precision with
dropout 0 (the norms, softmax and rotations of transformers round to float in between).
"""

import argparse
import json
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM)

STEPS = 20
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
GREEDY = 12
RANK, ALPHA = 3, 6

COMMON = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
          "num_attention_heads": 4, "max_position_embeddings": 96, "rms_norm_eps": 1e-5,
          "attn_implementation": "eager", "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 24}
VARIANTS = {
    # Grouped queries, heads wider than hidden / heads, an own head's matrix.
    "llama": (LlamaConfig, LlamaForCausalLM, {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32,
                                              "tie_word_embeddings": False}),
    # Tied, with biases (also behind the attention) and LLaMA 3's positions.
    "llama3": (LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 2, "tie_word_embeddings": True,
                                               "attention_bias": True, "rope_parameters": LLAMA3}),
    "linear": (LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 4, "tie_word_embeddings": True,
                                               "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0,
                                                                   "factor": 4.0}}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"num_key_value_heads": 2, "tie_word_embeddings": True,
                                              "use_sliding_window": False}),
    "mistral": (MistralConfig, MistralForCausalLM, {"num_key_value_heads": 2, "sliding_window": None,
                                                    "tie_word_embeddings": False}),
}


def tiny_model(variant):
    config_class, model_class, fields = VARIANTS[variant]
    torch.manual_seed(31 + sorted(VARIANTS).index(variant))
    model = model_class(config_class(**{**COMMON, **fields}))
    with torch.no_grad():  # livelier than the usual start, so that no gradient is tiny
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.2 * torch.randn_like(p))
            else:
                p.copy_(0.2 * torch.randn_like(p))
    return model


def make_batches(count, vocab, seed):
    """Ragged sequences; about half of the targets count, the last of a sequence never. One batch has a long sequence."""
    generator = torch.Generator().manual_seed(seed)

    def integer(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    batches = []
    for number in range(count):
        rows = []
        for length in (integer(2, 12), 70 if number == 0 else integer(2, 20), integer(3, 9)):
            ids = [integer(0, vocab) for _ in range(length)]
            counted = [integer(0, 2) == 1 for _ in range(length - 1)] + [False]
            counted[0] = True
            rows.append({"ids": ids, "targets": [ids[i + 1] if c else -1 for i, c in enumerate(counted)]})
        batches.append(rows)
    return batches


def logits_of(model, row):
    return model(input_ids=torch.tensor([row["ids"]])).logits[0]


def loss_of(model, batch):
    total, counted = 0, 0
    for row in batch:
        targets = torch.tensor(row["targets"])
        total = total + torch.nn.functional.cross_entropy(logits_of(model, row), targets, ignore_index=-1,
                                                          reduction="sum")
        counted += int((targets >= 0).sum())
    return total / counted


def adamw_losses(model, batches):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def greedy(model, prompt):
    ids = list(prompt)
    margin = float("inf")
    for _ in range(GREEDY):
        logits = logits_of(model, {"ids": ids})[-1]
        best = torch.topk(logits, 2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        ids.append(int(best.indices[0]))
    assert margin > 1e-3, "another prompt: two tokens are as good"
    generated = model.generate(torch.tensor([prompt]), max_new_tokens=GREEDY, do_sample=False)[0].tolist()
    assert generated == ids, (generated, ids)
    return ids[len(prompt):]


def choices(model, prompt, batch):
    """The log likelihoods of three answers to a prompt: each token given all before it."""
    answers = [row["ids"][:n] for row, n in zip(batch, (1, 6, 3))]
    likelihoods = []
    for answer in answers:
        logits = logits_of(model, {"ids": prompt + answer})[len(prompt) - 1:-1]
        chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])
        likelihoods.append(chosen.sum().item())
    return {"answers": answers, "log_likelihoods": likelihoods}


def save_peft(model, folder):
    """The adapters as peft saves them, in float."""
    model.save_pretrained(folder, state_dict={k: v.float() for k, v in model.state_dict().items()})
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "llama"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def with_lora(model, batches, folder):
    """peft's adapters on some matrices of block 1, from A and B that are both random."""
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0,
                                             target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
                                             layers_to_transform=[1])).double()
    generator = torch.Generator().manual_seed(5)
    start = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_((0.3 * torch.randn(p.shape, generator=generator)).double())
                start[name.replace("base_model.model.", "").replace(".default", "")] = p.detach().float().clone()
    save_peft(model, folder / "peft")
    result = {"rank": RANK, "alpha": ALPHA, "loss": loss_of(model, batches[0]).item(),
              "logits": logits_of(model, batches[0][0]).tolist()}
    model.zero_grad()
    loss_of(model, batches[0]).backward()
    gradients = {n.replace("base_model.model.", "").replace(".default", "") + ".gradient": p.grad.float().contiguous()
                 for n, p in model.named_parameters() if p.requires_grad}
    save_file({**start, **gradients}, folder / "lora.safetensors")
    result["adamw_losses"] = adamw_losses(model, batches)
    return result


def make(output, variant):
    folder = output / variant
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(variant)
    model.generation_config.eos_token_id = None
    config = model.config.to_dict()
    for key in ("transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    start = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()
             if not (k == "lm_head.weight" and config["tie_word_embeddings"])}
    save_file(start, folder / "model.safetensors", metadata={"format": "pt"})

    model = model.double().train()
    batches = make_batches(STEPS, config["vocab_size"], 7)

    def restart():
        model.load_state_dict({k: v.double() for k, v in start.items()}, strict=False)
        model.zero_grad()

    restart()
    loss = loss_of(model, batches[0])
    loss.backward()
    save_file({n: p.grad.float().contiguous() for n, p in model.named_parameters()},
              folder / "gradients.safetensors")
    prompt = batches[1][0]["ids"][:5]
    golden = {
        "batches": batches,
        "loss": loss.item(),
        "logits": [[round(x, 9) for x in row] for row in logits_of(model, batches[0][0]).tolist()],
        # Of the long sequence: its last row alone.
        "last_logits": logits_of(model, batches[0][1])[-1].tolist(),
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "prompt": prompt,
        "greedy": greedy(model.eval(), prompt),
        "choices": choices(model, prompt, batches[2]),
    }
    model.train()
    golden["adamw_losses"] = adamw_losses(model, batches)
    restart()
    if variant == "llama":
        golden["lora"] = with_lora(model, batches, folder)
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(variant, golden["loss"], golden["adamw_losses"][-1], golden["greedy"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for variant in VARIANTS:
        make(arguments.output, variant)


if __name__ == "__main__":
    main()
