#!/usr/bin/env python3
"""Writes the goldens of examples/finetune/tests/bert_golden.cpp with torch and transformers.

    make_bert_goldens.py OUTPUT_DIR             the tiny models (bert_tiny, beside this script)
    make_bert_goldens.py OUTPUT_DIR --real DIR  also real.json, for the model in DIR (a Hugging Face directory)

tiny: a BERT of 2 layers with random weights, a batch of ragged length, in two variants (classification, regression),
and a RoBERTa (classification): logits, loss, every gradient, the losses of 20 AdamW steps, and those of 20 steps of the sparse method.
All in double precision, so that the goldens carry no rounding of their own, with dropout 0.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

STEPS = 20
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
SPARSE_LEARNING_RATE = 2e-3
SPARSE_KEEP = 25  # entries of a core of 64 x 32
BASIS_STEPS = 4


def tiny_config(regression, roberta):
    family = {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 26} if roberta else {
        "type_vocab_size": 2, "max_position_embeddings": 24}
    return (RobertaConfig if roberta else BertConfig)(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        **family, hidden_act="gelu", hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, layer_norm_eps=1e-12, num_labels=1 if regression else 3,
        problem_type="regression" if regression else "single_label_classification",
        attn_implementation="eager")


def tiny_model(regression, roberta):
    torch.manual_seed(20240 + regression)
    model = (RobertaForSequenceClassification if roberta else BertForSequenceClassification)(tiny_config(regression, roberta))
    with torch.no_grad():  # livelier than the usual start, so that no gradient is tiny
        for name, p in model.named_parameters():
            if "LayerNorm.weight" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.1 * torch.randn_like(p))
            else:
                p.copy_(0.15 * torch.randn_like(p))
    return model


def make_batches(count, vocab, longest, labels, regression, seed, sequences=5, first_id=1, types_of=2):
    generator = torch.Generator().manual_seed(seed)

    def integer(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    batches = []
    for _ in range(count):
        rows = []
        for s in range(sequences):
            length = longest if s == 1 else integer(1 if s == 2 else 3, longest + 1)
            ids = [integer(first_id, vocab) for _ in range(length)]
            cut = integer(1, length + 1)
            types = [0 if i < cut else types_of - 1 for i in range(length)]
            label = round(float(torch.randn(1, generator=generator)), 3) if regression else integer(0, labels)
            rows.append({"ids": ids, "type_ids": types, "label": label})
        batches.append(rows)
    return batches


def tensors(batch, config, regression, pad_to=None):
    length = pad_to or max(len(row["ids"]) for row in batch)
    ids = torch.full((len(batch), length), config.pad_token_id or 0, dtype=torch.long)
    types = torch.zeros_like(ids)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(batch):
        n = len(row["ids"])
        ids[i, :n] = torch.tensor(row["ids"])
        types[i, :n] = torch.tensor(row["type_ids"])
        mask[i, :n] = 1
    labels = torch.tensor([row["label"] for row in batch], dtype=torch.float64 if regression else torch.long)
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask, "labels": labels}


def adamw_losses(model, batches, regression):
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = model(**tensors(batch, model.config, regression)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def mlp_matrices(model):
    """(kind, parameter) of every MLP matrix; "up" is [intermediate, hidden], "down" [hidden, intermediate]."""
    for layer in model.base_model.encoder.layer:
        yield "up", layer.intermediate.dense.weight
        yield "down", layer.output.dense.weight


def hosvd_bases(model, batches, regression):
    """V and U of each kind: eigenvectors of the sums of dW dW^T and dW^T dW over layers and batches, largest first,
    each with its largest entry positive. The weights do not move meanwhile."""
    sums = {}
    for batch in batches:
        model.zero_grad()
        model(**tensors(batch, model.config, regression)).loss.backward()
        for kind, weight in mlp_matrices(model):
            g = weight.grad
            left, right = sums.setdefault(kind, [torch.zeros(g.shape[0], g.shape[0], dtype=g.dtype),
                                                 torch.zeros(g.shape[1], g.shape[1], dtype=g.dtype)])
            left += g @ g.T
            right += g.T @ g
    bases = {}
    for kind, grams in sums.items():
        factors = []
        for gram in grams:
            vectors = torch.linalg.eigh(gram)[1].flip(1)
            largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
            factors.append((vectors * largest.sign()).float().double())
        bases[kind] = factors
    return bases


def top_k(core, k):
    """Exactly k by |value|, ties by lowest index; as a coalesced sparse tensor."""
    order = torch.sort(core.abs().flatten(), descending=True, stable=True)[1][:k].sort()[0]
    index = torch.stack([order // core.shape[1], order % core.shape[1]])
    return torch.sparse_coo_tensor(index, core.flatten()[order], core.shape).coalesce()


def sparse_losses(model, bases, batches, regression):
    """The sparse method: G~ = V^T dW U, its k largest entries to SparseAdam on the core's coordinates, the update
    D of which goes back as W += V D U^T; AdamW for all other parameters."""
    matrices = list(mlp_matrices(model))
    ours = {id(weight) for _, weight in matrices}
    dense = torch.optim.AdamW([p for p in model.parameters() if id(p) not in ours], lr=LEARNING_RATE,
                              weight_decay=WEIGHT_DECAY)
    cores = []
    for kind, weight in matrices:
        v, u = bases[kind]
        cores.append(torch.nn.Parameter(torch.zeros(v.shape[1], u.shape[1], dtype=weight.dtype)))
    sparse = torch.optim.SparseAdam(cores, lr=SPARSE_LEARNING_RATE)
    losses = []
    for batch in batches:
        model.zero_grad()
        loss = model(**tensors(batch, model.config, regression)).loss
        loss.backward()
        losses.append(loss.item())
        for core, (kind, weight) in zip(cores, matrices):
            v, u = bases[kind]
            core.grad = top_k(v.T @ weight.grad @ u, SPARSE_KEEP)
        sparse.step()
        dense.step()
        with torch.no_grad():
            for core, (kind, weight) in zip(cores, matrices):
                v, u = bases[kind]
                weight += v @ core @ u.T
                core.zero_()
    return losses


def make_tiny(output, name, regression=False, roberta=False):
    folder = output / name
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(regression, roberta)
    config = model.config.to_dict()
    for key in ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "_attn_implementation_autoset"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    start = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items() if "position_ids" not in k}
    save_file(start, folder / "model.safetensors", metadata={"format": "pt"})

    model = model.double().train()
    config = model.config
    batches = make_batches(STEPS, config.vocab_size, 12, config.num_labels, regression, 7,
                           first_id=2 if roberta else 1, types_of=config.type_vocab_size)

    def restart():
        model.load_state_dict({k: v.double() for k, v in start.items()})
        model.zero_grad()

    restart()
    result = model(**tensors(batches[0], config, regression))
    padded = model(**tensors(batches[0], config, regression, pad_to=16))
    assert torch.allclose(result.logits, padded.logits, atol=1e-12)
    result.loss.backward()
    gradients = {n: p.grad.float().contiguous() for n, p in model.named_parameters()}
    save_file(gradients, folder / "gradients.safetensors")

    restart()
    losses = adamw_losses(model, batches, regression)
    restart()
    bases = hosvd_bases(model, batches[:BASIS_STEPS], regression)
    save_file({f"{kind}.{side}": f.float().contiguous() for kind, fs in bases.items() for side, f in zip(("v", "u"), fs)},
              folder / "bases.safetensors")
    restart()
    golden = {
        "batches": batches,
        "pad_to": 16,
        "logits": result.logits.tolist(),
        "loss": result.loss.item(),
        "adamw": {"learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "losses": losses},
        "sparse": {"learning_rate": SPARSE_LEARNING_RATE, "count": SPARSE_KEEP, "basis_steps": BASIS_STEPS,
                   "losses": sparse_losses(model, bases, batches, regression)},
    }
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")


def make_real(output, directory):
    model = BertForSequenceClassification.from_pretrained(directory, num_labels=2, attn_implementation="eager").double()
    torch.manual_seed(5)
    with torch.no_grad():  # a head of our own: the directory may have none
        model.classifier.weight.copy_((0.05 * torch.randn(model.classifier.weight.shape)).round(decimals=4))
        model.classifier.bias.copy_(torch.tensor([0.05, -0.05]))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = make_batches(1, model.config.vocab_size, 40, 2, False, 11, sequences=6)[0]
    result = model(**tensors(batch, model.config, False))
    result.loss.backward()
    gradients = {}
    for name, p in model.named_parameters():
        flat = p.grad.flatten()
        places = [0, flat.numel() // 3, flat.numel() - 1, int(flat.abs().argmax())]
        gradients[name] = {"norm": flat.norm().item(), "at": places, "values": flat[places].tolist()}
    golden = {"batch": batch, "classifier_weight": model.classifier.weight.tolist(),
              "classifier_bias": model.classifier.bias.tolist(), "logits": result.logits.tolist(),
              "loss": result.loss.item(), "gradients": gradients}
    (output / "real.json").write_text(json.dumps(golden) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--real", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make_tiny(arguments.output, "classification")
    make_tiny(arguments.output, "regression", regression=True)
    make_tiny(arguments.output, "roberta", roberta=True)
    if arguments.real:
        make_real(arguments.output, arguments.real)


if __name__ == "__main__":
    main()
