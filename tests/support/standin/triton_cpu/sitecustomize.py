"""Shows vLLM a Triton backend for the CPU, which Triton does not have: vLLM only asks for its name
and whether its driver is active, and under TRITON_INTERPRET=1 nothing is compiled."""

import os
import types
from typing import NoReturn

if os.environ.get("TRITON_INTERPRET") == "1":
    import triton.backends

    def driver() -> NoReturn:
        """As Triton does without a driver; Inductor goes on with C++ then."""
        raise RuntimeError("the interpreter has no driver")

    vars(driver)["is_active"] = lambda: True
    triton.backends.backends["cpu"] = types.SimpleNamespace(driver=driver)
