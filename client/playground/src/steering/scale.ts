import type { Vector } from "../api/types";
import type { Use } from "./mix";

/** The ends of a slider, and the part of it in which text stays sound. */
export interface Scale {
  min: number;
  max: number;
  step: number;
  safe: [number, number] | null;
}

/** The safe range of a use: the vector's own, which is one of its own operation. */
export function safeRangeOf(vector: Vector | undefined, operation: string | null): [number, number] | null {
  const isOwn = operation === null || operation === (vector?.operation ?? "add");
  return (isOwn && vector?.safe_range) || null;
}

/** As much again as half of the safe range lies beyond each of its ends. Without one: twice the vector's own coefficient. */
export function scaleOf(vector: Vector | undefined, { coefficient, operation }: Use, dynamic: boolean): Scale {
  const safe = safeRangeOf(vector, operation);
  const own = Math.abs(vector?.coefficient ?? 1) || 1;
  const beyond = safe ? (safe[1] - safe[0]) / 4 : 0;
  const least = safe ? Math.min(0, safe[0] - beyond) : -2 * own;
  const most = safe ? Math.max(0, safe[1] + beyond) : 2 * own;
  const min = dynamic ? 0 : Math.min(least, coefficient);
  const max = Math.max(most, coefficient, min + own);
  return { min, max, step: niceStep(max - min), safe };
}

export function isOutside(coefficient: number, safe: [number, number] | null): boolean {
  return safe !== null && coefficient !== 0 && (coefficient < safe[0] || coefficient > safe[1]);
}

/** Where `value` lies on the track, 0 to 1. */
export function share(value: number, scale: Scale): number {
  return Math.min(1, Math.max(0, (value - scale.min) / (scale.max - scale.min)));
}

/** 1, 2 or 5 times a power of ten, about a hundredth of `span`. */
function niceStep(span: number): number {
  const power = 10 ** Math.floor(Math.log10(span / 100));
  const lead = span / 100 / power;
  return power * (lead >= 5 ? 5 : lead >= 2 ? 2 : 1);
}
