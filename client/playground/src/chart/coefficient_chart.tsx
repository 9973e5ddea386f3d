import { useEffect, useRef } from "preact/hooks";

import type { Answer } from "../state/compare/answer";
import { words } from "../strings";
import { Lines } from "./lines";
import { Readout } from "./readout";
import { tintedBy } from "./tint";

/** Each property's coefficient by token, drawn as it comes. */
export function CoefficientChart({ answer }: { answer: Answer }) {
  const box = useRef<HTMLDivElement>(null);
  const trace = answer.trace;
  useEffect(() => {
    const lines = new Lines(box.current!, trace);
    return () => lines.destroy();
  }, [trace, trace.properties.length]);
  const step = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = trace.pointed.value ?? (by > 0 ? -1 : trace.length);
    trace.pointed.value = Math.min(trace.length - 1, Math.max(0, at + by));
  };
  return (
    <figure class="chart">
      <figcaption class="chart-title">{words.chart.title}</figcaption>
      <div class="legend">
        {trace.properties.map((property, n) => (
          <button
            key={property.name}
            type="button"
            class="quiet legend-item"
            data-series={n % 8}
            aria-pressed={tintedBy.value === n}
            title={words.chart.tint(property.name)}
            onClick={() => (tintedBy.value = n)}
          >
            <span class="swatch" aria-hidden="true" />
            {property.name}
          </button>
        ))}
      </div>
      <div
        class="chart-box"
        ref={box}
        tabIndex={0}
        role="img"
        aria-label={`${words.chart.title}. ${words.chart.point}`}
        onKeyDown={step}
        onMouseLeave={() => (trace.pointed.value = null)}
      />
      <Readout answer={answer} />
    </figure>
  );
}
