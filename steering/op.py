"""The one operation: h_t <- h_t + sum_k c[row(t), k] * bank[i[row(t), k]].

A torch custom op, so that torch.compile treats it as opaque and CUDA graphs capture it.
"""

import torch
from torch import Tensor


@torch.library.custom_op("steersman::add", mutates_args=("hidden",))
def add(
    hidden: Tensor, bank: Tensor, index: Tensor, coefficient: Tensor, token_row: Tensor
) -> None:
    """Add each steered token's vectors to `hidden`, in place.

    Shapes and dtypes: `hidden` [tokens, hidden] of any float dtype; `bank` [rows, hidden] float32;
    `index` [requests, K] int32 and `coefficient` [requests, K] float32, one site and layer's part
    of the tables, unused terms being row 0 (all zeros) at 0.0; `token_row` [>= tokens] int32, the
    table row of each token, -1 for a token that is not steered.

    The sum is taken in float32 and cast once. Tokens with row -1 are not touched.
    """
    rows = token_row[: hidden.shape[0]]
    tokens = (rows >= 0).nonzero().squeeze(1)
    if tokens.numel() == 0:
        return
    # A prefill has thousands of tokens but few table rows: sum once a row, not once a token.
    used, inverse = torch.unique(rows[tokens], return_inverse=True)
    terms = bank[index[used]]  # [used, K, hidden]
    delta = torch.bmm(coefficient[used].unsqueeze(1), terms).squeeze(1)
    if hidden.dtype == torch.float32:
        hidden.index_add_(0, tokens, delta[inverse])
    else:
        hidden[tokens] = (hidden[tokens].float() + delta[inverse]).to(hidden.dtype)


@add.register_kernel("cuda")
def add_static(
    hidden: Tensor, bank: Tensor, index: Tensor, coefficient: Tensor, token_row: Tensor
) -> None:
    """The same without a shape that depends on data, so that CUDA graphs can capture it."""
    rows = token_row[: hidden.shape[0]]
    used = rows.clamp(min=0)
    delta = torch.bmm(coefficient[used].unsqueeze(1), bank[index[used]]).squeeze(1)
    steered = (hidden.float() + delta).to(hidden.dtype)
    hidden.copy_(torch.where((rows >= 0).unsqueeze(1), steered, hidden))


@add.register_fake
def _(hidden: Tensor, bank: Tensor, index: Tensor, coefficient: Tensor, token_row: Tensor) -> None:
    return None
