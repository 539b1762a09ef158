#!/usr/bin/env python3
"""Writes tests/golden/sparse_adam.safetensors: 50 steps of torch.optim.SparseAdam on changing supports, and of
torch.optim.Adam on a dense gradient, in float32. Needs torch and safetensors; the test needs neither.

    python3 tests/golden/make_sparse_adam_goldens.py
"""

import pathlib

import torch
from safetensors.torch import save_file

ROWS, COLS, STEPS = 6, 11, 50
LR, BETAS, EPS = 3e-3, (0.9, 0.999), 1e-8


def supports(generator):
    """Step t's positions: of changing number, one step empty, one whole, some entries met only late."""
    for t in range(STEPS):
        if t == 7:
            yield torch.empty(0, dtype=torch.int64)
        elif t == 31:
            yield torch.arange(ROWS * COLS)
        else:
            pool = ROWS * COLS // 2 if t < 25 else ROWS * COLS
            count = 3 + int(torch.randint(20, (1,), generator=generator))
            yield torch.randperm(pool, generator=generator)[:count].sort().values


def main():
    generator = torch.Generator().manual_seed(20240607)
    weight = torch.nn.Parameter(torch.randn(ROWS, COLS, generator=generator))
    dense = torch.nn.Parameter(weight.detach().clone())
    tensors = {"weight": weight.detach().clone()}
    sparse_adam = torch.optim.SparseAdam([weight], lr=LR, betas=BETAS, eps=EPS)
    adam = torch.optim.Adam([dense], lr=LR, betas=BETAS, eps=EPS)
    indices, values, counts, dense_gradients = [], [], [], []
    for t, index in enumerate(supports(generator)):
        # Magnitudes over ten decades, so that eps matters for some entries.
        scale = 10 ** (-10 * torch.rand(len(index), generator=generator))
        value = torch.randn(len(index), generator=generator) * scale
        weight.grad = torch.sparse_coo_tensor(torch.stack([index // COLS, index % COLS]), value, (ROWS, COLS))
        sparse_adam.step()
        scale = 10 ** (-10 * torch.rand(ROWS, COLS, generator=generator))
        gradient = torch.randn(ROWS, COLS, generator=generator) * scale
        dense.grad = gradient
        adam.step()
        counts.append(len(index))
        indices.append(index.to(torch.int32))
        values.append(value)
        dense_gradients.append(gradient)
        if t in (0, 9, 49):
            tensors[f"weight_{t + 1}"] = weight.detach().clone()
            tensors[f"dense_weight_{t + 1}"] = dense.detach().clone()
    state = sparse_adam.state[weight]
    tensors |= {
        "counts": torch.tensor(counts, dtype=torch.int32),
        "index": torch.cat(indices),
        "value": torch.cat(values),
        "m": state["exp_avg"].clone(),
        "v": state["exp_avg_sq"].clone(),
        "dense_gradient": torch.stack(dense_gradients),
        "dense_m": adam.state[dense]["exp_avg"].clone(),
        "dense_v": adam.state[dense]["exp_avg_sq"].clone(),
    }
    metadata = {"torch": torch.__version__, "lr": str(LR), "betas": str(BETAS), "eps": str(EPS)}
    folder = pathlib.Path(__file__).resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sparse_adam.safetensors", metadata)
    print(f"{folder / 'sparse_adam.safetensors'}: {sum(counts)} entries in {STEPS} steps")


if __name__ == "__main__":
    main()
