"""The paper's own layer in torch, for comparison."""


def reference_layer(torch, layer, v, u, entries):
    """The order of the paper's own layer in torch: the weight lives in the basis, every token is rotated in forward and backward,
    the gradient's largest entries go to SparseAdam as a sparse tensor. Backward takes only the rows of dY that are not zero."""

    class InBasis(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias):
            xu = x @ u
            ctx.save_for_backward(xu, weight)
            return (xu @ weight.T) @ v.T + bias

        @staticmethod
        def backward(ctx, dy):
            xu, weight = ctx.saved_tensors
            rows = dy.any(1).nonzero().squeeze(1)  # padding's are zero, and left out
            all_rows = rows.numel() == dy.shape[0]
            dyv = (dy if all_rows else dy[rows]) @ v
            core = dyv.T @ (xu if all_rows else xu[rows])
            least = torch.topk(core.abs().flatten(), entries).values[-1]
            kept = torch.where(core.abs() >= least, core, torch.zeros_like(core)).to_sparse()
            dx = (dyv @ weight) @ u.T
            if not all_rows:
                dx = dx.new_zeros(dy.shape[0], u.shape[0]).index_copy_(0, rows, dx)
            return dx, kept, dy.sum(0)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(v.T @ layer.weight.detach() @ u)
            self.bias = torch.nn.Parameter(layer.bias.detach().clone())

        def forward(self, x):
            rows = x.reshape(-1, x.shape[-1])
            return InBasis.apply(rows, self.weight, self.bias).reshape(*x.shape[:-1], -1)

    return Layer()
