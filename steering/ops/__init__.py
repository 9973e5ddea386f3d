"""The operations that change a residual stream: in torch, and as Triton kernels."""
