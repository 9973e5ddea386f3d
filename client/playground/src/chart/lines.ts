import { effect } from "@preact/signals";
import uPlot from "uplot";

import type { Trace } from "../state/compare/trace";
import { DYNAMIC } from "../state/compare/traces";
import { colours, whenColoursChange } from "./colours";
import { seriesOf } from "./tint";

const HEIGHT = 140;
/** A chart of thousands of points is drawn at most so often while they come. */
const EVERY_MS = 100;

/** The lines of a trace in `box`: follows the trace, the width of the box, and the colours of the page. */
export class Lines {
  private plot: uPlot;
  private readonly stops: (() => void)[] = [];
  private timer: ReturnType<typeof setTimeout> | null = null;
  /** Whether the cursor is being moved by us, and not by the pointer. */
  private moving = false;

  constructor(
    private readonly box: HTMLElement,
    private readonly trace: Trace,
  ) {
    this.plot = this.make();
    const width = new ResizeObserver(() => this.plot.setSize({ width: box.clientWidth, height: HEIGHT }));
    width.observe(box);
    this.stops.push(
      () => width.disconnect(),
      whenColoursChange(() => this.remake()),
      effect(() => {
        if (trace.version.value > 0) this.soon();
      }),
      effect(() => this.point(trace.pointed.value)),
    );
  }

  destroy(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    for (const stop of this.stops) stop();
    this.plot.destroy();
  }

  private soon(): void {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.plot.setData(this.data());
    }, EVERY_MS);
  }

  private point(token: number | null): void {
    this.moving = true;
    const left = token === null ? -10 : this.plot.valToPos(token + 1, "x");
    this.plot.setCursor({ left, top: token === null ? -10 : 1 });
    this.moving = false;
  }

  private remake(): void {
    this.plot.destroy();
    this.plot = this.make();
  }

  private data(): uPlot.AlignedData {
    const tokens = Array.from({ length: this.trace.length }, (_, n) => n + 1);
    return [tokens, ...this.trace.properties.map((one) => one.values)];
  }

  /** Coefficients from nothing to the most that they may be; what is read with some room around it. */
  private range(min: number, max: number): uPlot.Range.MinMax {
    return this.trace.kind === DYNAMIC ? [0, Math.max(max, this.trace.ends.high)] : uPlot.rangeNum(min, max, 0.1, false);
  }

  private make(): uPlot {
    const { ink, line, series, font } = colours();
    const axis = { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { show: false }, gap: 4 };
    const options: uPlot.Options = {
      width: this.box.clientWidth || 300,
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: false, range: (_, min, max) => [Math.min(1, min), Math.max(2, max)] }, y: { range: (_, min, max) => this.range(min, max) } },
      axes: [
        { ...axis, size: 24, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
        { ...axis, size: 36 },
      ],
      series: [
        {},
        ...this.trace.properties.map((one, n) => ({
          label: one.name,
          stroke: series[seriesOf(this.trace, n)]!,
          width: 1.5,
          points: { show: false },
        })),
      ],
      hooks: {
        setCursor: [
          (plot) => {
            if (!this.moving && plot.cursor.idx != null && (plot.cursor.left ?? -1) >= 0) this.trace.pointed.value = plot.cursor.idx;
          },
        ],
      },
    };
    return new uPlot(options, this.data(), this.box);
  }
}
