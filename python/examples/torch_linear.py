"""An MLP of torch learns another one's outputs, its matrices trained by sparse gradients.

The training of examples/14_mlp.cpp, from the same random numbers: it prints the same losses.
"""

import numpy as np
import torch

import sparsegrad


def train(name, learning_rate, **options):
    width, hidden, tokens = 24, 64, 32
    random = uniform_numbers()
    student, teacher = (
        torch.nn.Sequential(
            torch.nn.Linear(width, hidden, bias=False), torch.nn.GELU(), torch.nn.Linear(hidden, width, bias=False)
        )
        for _ in range(2)
    )
    with torch.no_grad():
        for i in (0, 2):
            student[i].weight.copy_(random(0.25, *student[i].weight.shape))
        left, right = random(1, 3, hidden), random(1, 3, width)
        teacher[0].weight.copy_(student[0].weight + 0.1 * left.T @ right)
        teacher[2].weight.copy_(student[2].weight + 0.1 * right.T @ left)

    group = sparsegrad.Group(**options)
    group.add_weight(student[0].weight, "up")  # trained where they are
    group.add_weight(student[2].weight, "down")
    losses = []
    for _ in range(300):
        x = random(1.7, tokens, width)
        loss = 0.5 / tokens * ((student(x) - teacher(x).detach()) ** 2).sum()
        student.zero_grad()
        loss.backward()
        group.set_gradient(0, student[0].weight.grad)  # read where they are, at the step
        group.set_gradient(1, student[2].weight.grad)
        group.step(learning_rate=learning_rate)
        losses.append(loss.item())
    print(f"{name:22}" + "".join(f"  {np.mean(losses[i : i + 100]):8.2f}" for i in (0, 100, 200)))


def uniform_numbers():
    """Of std::mt19937, as the example in C++ makes them: uniform in [-size, size)."""
    bits = np.random.MT19937()
    bits._legacy_seeding(5489)

    def numbers(size, rows, cols):
        fractions = (bits.random_raw(rows * cols) >> 8).astype(np.float32) * np.float32(2**-23) - 1
        return torch.from_numpy(np.float32(size) * fractions.astype(np.float32)).reshape(rows, cols)

    return numbers


if __name__ == "__main__":
    print("mean loss of steps         1-100   101-200   201-300")
    train("Adam, all entries", 0.01, density=1, semantics="dense_core", capacity_factor=0)
    train("1 %, in a basis", 0.02, density=0.01, warmup_steps=10)
    train("1 %, without a basis", 0.02, density=0.01)
