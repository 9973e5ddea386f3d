"""The results of the measurements: a page of examples and a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.demo.measures import MEASURES

EXAMPLES = 2


def print_table(results: Mapping[str, Any]) -> None:
    """One line a vector: the measure at each coefficient, and whether it passed."""
    for name, result in results.items():
        curve = "  ".join(f"{p['coefficient']:+.1f}: {p['measure']:6.2f}" for p in result["curve"])
        print(
            f"{name:13s} {curve}  shift {result['shift']:.2f} (needs {result['least_shift']})  "
            f"Spearman {result['spearman']:.2f}  {'ok' if result['passed'] else 'NOT MET'}",
            flush=True,
        )


def write_page(path: Path, results: Mapping[str, Any], rule: str) -> None:
    """`docs/demo-vectors.md`: the numbers, and the first answers at -1.5, 0 and +1.5."""
    lines = [
        "# The demo vectors",
        "",
        "<!-- written by `python -m tools.demo.vectors --server URL`; do not edit -->",
        "",
        "`vectors/demo/make.py` makes these vectors on SmolLM2-135M-Instruct, from the contrast",
        "texts in `vectors/demo/texts/` (over 40 pairs each, written for this project). The",
        "answers below are those of a running Steersman server: 16 neutral prompts, temperature",
        "0, 48 tokens.",
        "",
        "| vector | read | layers | dose at 1 | measure | at -1.5 | none | at +1.5 | Spearman |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in results.items():
        cells = [
            f"`{name}`",
            result["read"],
            ", ".join(map(str, result["layers"])),
            f"{result['unit_dose']:.3f}",
            MEASURES[name].label,
            *(_with_perplexity(_at(result, coefficient)) for coefficient in (-1.5, 0.0, 1.5)),
            f"{result['spearman']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "The dose is the length of coefficient times vector, divided by the median norm of the",
        "residual stream at that layer. The number in brackets is the perplexity of the answers",
        "under the unsteered model. `tools/demo/measures.py` defines the measures. A model of 135",
        "million parameters rambles even without steering: judge the difference, not the prose.",
        "",
        "## How the defaults were chosen",
        "",
        rule,
        "",
        "`bench/results/demo_sweep.json` has everything that was tried for each vector, and its",
        "result, measured with Hugging Face and hooks.",
        "",
        "## How far to trust it",
        "",
        "The texts, the grids and the limits of the rule were chosen with answers to these same",
        "prompts in view, so answers to other prompts may change less. The measures of `shouting`",
        "and `questions` have a floor at 0, which both reach without steering, so negative",
        "coefficients cannot lower them. A curve that never falls counts as monotone, whatever",
        "its Spearman coefficient.",
        "",
    ]
    for name, result in results.items():
        lines += [f"## {name}", "", result["description"], "", "| prompt | coefficient | answer |"]
        lines.append("| --- | --- | --- |")
        for prompt, by_coefficient in result["examples"]:
            for coefficient, text in by_coefficient:
                lines.append(f"| {_cell(prompt)} | {coefficient:g} | {_cell(text)} |")
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


def draw(path: Path, results: Mapping[str, Any]) -> None:
    """One panel a vector: the measure against the coefficient, and the perplexity."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = 4
    lines = -(-len(results) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(12, 2.7 * lines), squeeze=False)
    for axis in axes.flat[len(results) :]:
        axis.set_axis_off()
    for axis, (name, result) in zip(axes.flat, results.items(), strict=False):
        x = [point["coefficient"] for point in result["curve"]]
        axis.plot(x, [point["measure"] for point in result["curve"]], "o-", ms=3, color="#0b6e99")
        axis.set_title(name, fontsize=10)
        axis.set_ylabel(result["label"], fontsize=8, color="#0b6e99")
        axis.tick_params(labelsize=7)
        axis.axvline(0, color="#cccccc", lw=0.8, zorder=0)
        other = axis.twinx()
        other.plot(x, [p["perplexity"] for p in result["curve"]], "--", lw=1, color="#c26a00")
        other.set_ylim(0, max(12.0, 1.1 * max(p["perplexity"] for p in result["curve"])))
        other.tick_params(labelsize=7, colors="#c26a00")
    figure.supxlabel("coefficient (solid: measure, dashed: perplexity, right axis)", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    # No software name or date inside, so that the same numbers draw the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _at(result: Mapping[str, Any], coefficient: float) -> Any:
    return next(p for p in result["curve"] if p["coefficient"] == coefficient)


def _with_perplexity(point: Mapping[str, Any]) -> str:
    return f"{point['measure']:.2f} ({point['perplexity']:.1f})"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
