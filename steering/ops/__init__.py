"""The operation h <- h + sum_k g c v: `addition` in torch, `kernel` in Triton."""
