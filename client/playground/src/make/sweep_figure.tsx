import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

import { colours, whenColoursChange } from "../chart/colours";
import { words } from "../strings";
import type { Cell } from "./sweep_state";

const HEIGHT = 200;

/** Two curves over the coefficient: what is found, and how perplexed the unsteered model is by it. */
export function SweepFigure({ cells }: { cells: readonly Cell[] }) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    let plot = draw(box.current!, cells);
    const stop = whenColoursChange(() => {
      plot.destroy();
      plot = draw(box.current!, cells);
    });
    return () => {
      stop();
      plot.destroy();
    };
  }, [cells]);
  return (
    <figure class="chart">
      <figcaption class="chart-title">{words.sweep.figure}</figcaption>
      <div class="legend">
        {[words.sweep.found, words.sweep.perplexity].map((name, n) => (
          <span key={name} class="legend-name" data-series={n}>
            <span class="swatch" aria-hidden="true" />
            {name}
          </span>
        ))}
      </div>
      <div ref={box} class="sweep-box" role="img" aria-label={words.sweep.figure} />
    </figure>
  );
}

function draw(box: HTMLElement, cells: readonly Cell[]): uPlot {
  const { ink, line, series, font } = colours();
  const measured = cells.filter((one) => one.refused === null);
  const axis = { font, stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false } };
  const curve = (n: number, scale: string) => ({ scale, stroke: series[n]!, width: 1.5, points: { show: true, size: 6, fill: series[n]! } });
  return new uPlot(
    {
      width: box.clientWidth || 320,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false }, y: { range: (_, __, max) => [0, max * 1.1 || 1] }, p: { distr: 3 } },
      axes: [
        { ...axis, size: 28 },
        { ...axis, stroke: series[0]!, size: 36 },
        { ...axis, stroke: series[1]!, scale: "p", side: 1, size: 40, grid: { show: false } },
      ],
      series: [{}, curve(0, "y"), curve(1, "p")],
    },
    [measured.map((one) => one.coefficient), measured.map((one) => one.found), measured.map((one) => one.perplexity)],
    box,
  );
}
