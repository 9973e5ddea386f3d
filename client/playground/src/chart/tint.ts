import { signal } from "@preact/signals";

import type { Piece } from "../state/compare/answer";
import type { Trace } from "../state/compare/trace";

/** The property by which tokens are tinted. */
export const tintedBy = signal(0);

/** The colour of a piece, and how much of it: its coefficient over the largest that the property may have. */
export function useTint(trace: Trace, piece: Piece): { series: number; share: number } {
  const series = Math.min(tintedBy.value, Math.max(0, trace.properties.length - 1));
  const property = trace.properties[series];
  if (!property || piece.token === null) return { series, share: 0 };
  const own = property.coefficients.slice(piece.token, piece.token + piece.tokens);
  const mean = own.reduce((sum, one) => sum + one, 0) / (own.length || 1);
  return { series, share: Math.min(1, Math.abs(mean) / trace.cap) };
}
