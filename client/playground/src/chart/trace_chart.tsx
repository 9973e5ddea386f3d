import { useEffect, useRef } from "preact/hooks";

import type { Answer } from "../state/compare/answer";
import type { Trace } from "../state/compare/trace";
import { DYNAMIC } from "../state/compare/traces";
import { words } from "../strings";
import { Lines } from "./lines";
import { Readout } from "./readout";
import { lineOf, seriesOf, tintedBy, tinting } from "./tint";

/** Numbers by token, drawn as they come: the coefficients that were found, or what was read. */
export function TraceChart({ answer, trace }: { answer: Answer; trace: Trace }) {
  const box = useRef<HTMLDivElement>(null);
  const title = titleOf(trace);
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
      <figcaption class="chart-title">{title}</figcaption>
      <Legend answer={answer} trace={trace} />
      <div
        class="chart-box"
        ref={box}
        tabIndex={0}
        role="img"
        aria-label={`${title}. ${words.chart.point}`}
        onKeyDown={step}
        onMouseLeave={() => (trace.pointed.value = null)}
      />
      <Readout answer={answer} trace={trace} />
    </figure>
  );
}

/** The lines' colours. One of the answer's lines tints its text. */
function Legend({ answer, trace }: { answer: Answer; trace: Trace }) {
  const by = tinting(answer.traces);
  return (
    <div class="legend">
      {trace.properties.map((property, n) => {
        const name = (
          <>
            <span class="swatch" aria-hidden="true" />
            {property.name}
          </>
        );
        return trace.ofAnswer ? (
          <button
            key={property.name}
            type="button"
            class="quiet legend-item"
            data-series={seriesOf(trace, n)}
            aria-pressed={by?.trace === trace && by.n === n}
            title={words.chart.tint(property.name)}
            onClick={() => (tintedBy.value = lineOf(trace, property))}
          >
            {name}
          </button>
        ) : (
          <span key={property.name} class="legend-item" data-series={seriesOf(trace, n)}>
            {name}
          </span>
        );
      })}
    </div>
  );
}

function titleOf(trace: Trace): string {
  if (trace.kind === DYNAMIC) return words.chart.title;
  const measure = words.reads.measureNames[trace.kind] ?? trace.kind;
  return trace.ofAnswer ? words.reads.chart(measure) : words.reads.promptChart(measure);
}
