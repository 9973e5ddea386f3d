"""Shows vLLM a Triton backend for the CPU, which Triton does not have: vLLM only asks for its name
and whether its driver is active, and under TRITON_INTERPRET=1 nothing is compiled."""

import os
import types

if os.environ.get("TRITON_INTERPRET") == "1":
    import triton.backends

    driver = types.SimpleNamespace(is_active=lambda: True)
    triton.backends.backends["cpu"] = types.SimpleNamespace(driver=driver)
