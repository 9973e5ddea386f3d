"""docs/metrics.md: every `steering_*` metric."""

from typing import Final

from steersman.server.metrics import METRICS

HEAD: Final = """# Metrics

Written by `python -m tools.docs`. They stand beside vLLM's own at `/metrics`, which needs a key
with the scope `metrics` where there are keys. Label values come from closed sets. `deploy/` has a
dashboard and alerts over them.

| metric | type | labels | what it says |
| --- | --- | --- | --- |"""


def metrics() -> str:
    """The page."""
    rows = [HEAD]
    for metric in sorted(vars(METRICS).values(), key=lambda m: str(m._name)):
        (described,) = metric.describe()
        kind = described.type
        name = f"{described.name}_total" if kind == "counter" else described.name
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        rows.append(
            f"| `{name}` | {kind} | {labels} | {' '.join(described.documentation.split())} |"
        )
    return "\n".join(rows) + "\n"
