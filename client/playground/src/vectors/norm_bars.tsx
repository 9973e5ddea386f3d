import type { TensorInspection } from "../api/types";
import { shown, words } from "../strings";

const WIDTH = 480;
const HEIGHT = 72;
const GAP = 2;

/** The length of each tensor beside that of the stream at its layer. */
export function NormBars({ tensors }: { tensors: TensorInspection[] }) {
  const values = tensors.map((one) => one.relative_norm ?? one.norm);
  const most = Math.max(...values, 1e-9);
  const step = WIDTH / Math.max(1, tensors.length);
  return (
    <figure class="norms">
      <figcaption>
        <h3>{words.vectors.norms}</h3>
        <p class="field-hint">{words.vectors.normsHint}</p>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT + 16}`} role="img" aria-label={tensors.map((one, n) => words.vectors.layer(one.layer, shown(values[n]!))).join(", ")}>
        {tensors.map((one, n) => {
          const height = Math.max(1, (values[n]! / most) * HEIGHT);
          return (
            <g key={one.name}>
              <title>{`${one.name}: ${shown(values[n]!)}`}</title>
              <rect
                class={one.default ? "norm is-default" : "norm"}
                x={n * step + GAP / 2}
                y={HEIGHT - height}
                width={Math.max(1, Math.min(28, step - GAP))}
                height={height}
                rx="1.500"
              />
              {(tensors.length < 24 || n % 4 === 0) && (
                <text x={n * step + Math.min(28, step - GAP) / 2} y={HEIGHT + 12}>
                  {one.layer}
                </text>
              )}
            </g>
          );
        })}
      </svg>
    </figure>
  );
}
