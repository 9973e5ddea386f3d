"""Measure the demo vectors: choose their defaults, then check them through a running server.

    python -m tools.demo.vectors                 sweep layers and doses, write defaults.json
    python -m tools.demo.vectors --server URL    measure the curves a server gives, write
                                                 docs/demo-vectors.md and the README's figure

The first uses Hugging Face with hooks, so that the defaults owe nothing to the code they test.
Needs the extras `demo` and `measure`. Prints one JSON object last.
"""

import argparse
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from steersman.vectors.demo.activations import LoadedModel, load_model
from steersman.vectors.demo.contrast import contrasts
from steersman.vectors.demo.defaults import READS, load_defaults
from steersman.vectors.demo.directions import find_directions
from steersman.vectors.demo.model import default_home, prepare_model
from tools.demo.generate import log_likelihoods
from tools.demo.measures import MEASURES, PROMPTS, repetition
from tools.demo.report import EXAMPLES, draw, print_table, write_page
from tools.demo.server import COEFFICIENTS, Server
from tools.demo.sweep import RULE, Grid, choose, perplexity, rows, sweep

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = ROOT / "vectors" / "demo" / "defaults.json"
SWEEP = ROOT / "bench" / "results" / "demo_sweep.json"
RESULTS = ROOT / "bench" / "results" / "demo_vectors.json"
FIGURE = ROOT / "docs" / "figures" / "demo_vectors.png"
PAGE = ROOT / "docs" / "demo-vectors.md"
SHOWN = 1.5
LEAST_SPEARMAN = 0.9


def main() -> None:
    """Run the command line."""
    args = _arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    model_dir = args.model_dir or prepare_model(default_home(), _say)
    loaded = load_model(model_dir)
    if args.server:
        server = Server(args.server, args.model, args.prefix)
        found = _check(loaded, server, args.only or list(load_defaults()), keep=not args.prefix)
        _finish(found)
    else:
        _choose_defaults(loaded, args.only or sorted(contrasts()), _grid(args))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", metavar="URL", help="check through this Steersman server")
    parser.add_argument("--model", default="smollm2", help="its name for the demo model")
    parser.add_argument(
        "--prefix",
        default="",
        help="of the vectors' names on the server: others "
        "than the demo's own are checked, and no page or figure is written",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted(contrasts()))
    parser.add_argument("--model-dir", type=Path, help="the converted demo model")
    parser.add_argument("--threads", type=int, help="CPU threads for Hugging Face")
    full = Grid()
    sweep_only = parser.add_argument_group("the sweep's grid (default: the full one)")
    sweep_only.add_argument("--reads", nargs="+", choices=READS, default=full.reads)
    sweep_only.add_argument(
        "--layers", nargs="+", type=_layers, default=full.layer_sets, metavar="L,L,...",
        help="sets of layers, such as 16 12,14,16,18",
    )  # fmt: skip
    sweep_only.add_argument("--doses", nargs="+", type=float, default=full.doses)
    return parser.parse_args()


def _layers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _grid(args: argparse.Namespace) -> Grid:
    return Grid(tuple(args.reads), tuple(args.layers), tuple(sorted(args.doses)))


def _choose_defaults(loaded: LoadedModel, names: list[str], grid: Grid) -> None:
    wanted = {name: contrasts()[name] for name in names}
    found = find_directions(loaded, wanted, grid.layers, _say)
    for name in names:
        began = time.monotonic()
        unit = {
            read: {at: raw * found.median_norm[at] / raw.norm() for at, raw in by_layer.items()}
            for read, by_layer in found.difference[name].items()
        }
        points = sweep(loaded, name, unit, grid)
        chosen = choose(points)
        _say(f"{name}: {chosen} after {time.monotonic() - began:.0f} s")
        # Written one by one, so that an interrupted sweep keeps what it has.
        _update(DEFAULTS, {"rule": RULE}, name, chosen)
        _update(SWEEP, {"rule": RULE}, name, {"chosen": chosen, "points": rows(points)})
    print(json.dumps({"defaults": json.loads(DEFAULTS.read_text())["vectors"]}))


def _check(loaded: LoadedModel, server: Server, names: list[str], *, keep: bool) -> dict[str, Any]:
    from scipy.stats import spearmanr

    results = _earlier() if keep else {}
    for name in names:
        measure, defaults = MEASURES[name], load_defaults()[name]
        curve = []
        texts = server.answers(PROMPTS, name, COEFFICIENTS)
        for coefficient in COEFFICIENTS:
            scores = log_likelihoods(loaded, list(zip(PROMPTS, texts[coefficient], strict=True)))
            curve.append(
                {
                    "coefficient": coefficient,
                    "dose_per_layer": round(abs(coefficient) * defaults.unit_dose, 4),
                    "measure": round(fmean(map(measure.of, texts[coefficient])), 4),
                    "perplexity": round(perplexity(scores), 3),
                    "repetition": round(fmean(map(repetition, texts[coefficient])), 4),
                }
            )
        by_coefficient = {point["coefficient"]: point["measure"] for point in curve}
        shift = by_coefficient[SHOWN] - by_coefficient[-SHOWN]
        spearman = float(spearmanr(COEFFICIENTS, [p["measure"] for p in curve]).statistic)
        more = sum(
            measure.of(high) > measure.of(low)
            for high, low in zip(texts[SHOWN], texts[-SHOWN], strict=True)
        )
        results[name] = {
            "description": contrasts()[name].description,
            "label": measure.label,
            "read": defaults.read,
            "layers": list(defaults.layers),
            "unit_dose": defaults.unit_dose,
            "curve": curve,
            "shift": round(shift, 4),
            "least_shift": measure.least_shift,
            "spearman": round(spearman, 4),
            "prompts_higher_at_plus": more,
            "passed": shift >= measure.least_shift and _monotone(spearman, curve),
            "examples": [
                [PROMPTS[i], [[c, texts[c][i]] for c in (-SHOWN, 0.0, SHOWN)]]
                for i in range(EXAMPLES)
            ],
        }
        print_table({name: results[name]})
        if keep:
            _write(dict(sorted(results.items())))
    return results


def _monotone(spearman: float, curve: list[dict[str, float]]) -> bool:
    # A property without an opposite, such as shouting, lies at zero below zero; Spearman counts
    # such ties against a curve that never falls.
    never_falls = all(a["measure"] <= b["measure"] for a, b in pairwise(curve))
    return spearman >= LEAST_SPEARMAN or never_falls


def _write(results: dict[str, Any]) -> None:
    write_page(PAGE, results, RULE)
    draw(FIGURE, results)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def _earlier() -> dict[str, Any]:
    """Results on file, so that `--only` renews only some of them."""
    try:
        found = json.loads(RESULTS.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {name: result for name, result in found.items() if name in load_defaults()}


def _finish(results: dict[str, Any]) -> None:
    passed = all(result["passed"] for result in results.values())
    summary = {
        name: {key: r[key] for key in ("shift", "spearman", "passed")}
        for name, r in results.items()
    }
    print(json.dumps({"passed": passed, "prompts": len(PROMPTS), "vectors": summary}))
    sys.exit(0 if passed else 1)


def _update(path: Path, head: dict[str, Any], name: str, value: Any) -> None:
    try:
        given = json.loads(path.read_text())["vectors"]
    except (FileNotFoundError, ValueError, KeyError):
        given = {}
    given[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**head, "vectors": dict(sorted(given.items()))}, indent=1) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
