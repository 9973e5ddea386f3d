import { signal } from "@preact/signals";

import type { Piece } from "../state/compare/answer";
import type { Property, Trace } from "../state/compare/trace";
import { DYNAMIC, type Traces } from "../state/compare/traces";

/** The line by which tokens are tinted, as `lineOf` names it; null, or one that is not there: the first. */
export const tintedBy = signal<string | null>(null);

export const lineOf = (trace: Trace, property: Property): string => `${trace.kind} ${property.name}`;

/** Which of the charts' colours is a line's: those of vectors that steer from the first on, those of reads from the last. */
export const seriesOf = (trace: Trace, n: number): number => (trace.kind === DYNAMIC ? n % 8 : 7 - (n % 8));

/** The trace whose numbers tint the text, and the place of its property; null where nothing is known by token. */
export function tinting(traces: Traces): { trace: Trace; n: number } | null {
  const all = traces.list.value.filter((one) => one.ofAnswer && one.properties.length > 0);
  for (const trace of all) {
    const n = trace.properties.findIndex((one) => lineOf(trace, one) === tintedBy.value);
    if (n >= 0) return { trace, n };
  }
  return all[0] ? { trace: all[0], n: 0 } : null;
}

/** The colour of a piece, and its number: the mean over its tokens. */
export function useTint(traces: Traces, piece: Piece): { series: number; value: number } {
  const by = tinting(traces);
  const property = by?.trace.properties[by.n];
  if (!by || !property || piece.token === null) return { series: 0, value: 0 };
  const own = property.values.slice(piece.token, piece.token + piece.tokens);
  const mean = own.reduce((sum, one) => sum + one, 0) / (own.length || 1);
  return { series: seriesOf(by.trace, by.n), value: mean };
}
