/** Which tokens a use steers: the kinds of rules, by the names that the page's choices have. */

import { isObject } from "../api/problem";
import type { Marker, Positions } from "../api/types";
import { finite, numbers } from "./numbers";

export const SIDES = ["after", "until"] as const;
export type Side = (typeof SIDES)[number];

const NAMED = ["generation", "after_prompt", "prompt", "all"];

/** The kinds that a server has, of what it says in its capabilities: a marker has two sides. */
export function kindsOf(positions: readonly string[]): string[] {
  return positions.flatMap((one) => (one === "marker" ? [...SIDES] : [one]));
}

export function kindOf(positions: Positions): string {
  if (typeof positions === "string") return positions;
  const side = SIDES.find((one) => one in positions);
  return side ?? ("of" in positions ? "answer_range" : "range");
}

/** A rule to begin with; null for a marker, which has to be written first. */
export function firstOf(kind: string): Positions | null {
  if (kind === "range") return { start: 0, stop: 40 };
  if (kind === "answer_range") return { start: 0, stop: 20, of: "answer" };
  return NAMED.includes(kind) ? (kind as Positions) : null;
}

export function markerOf(positions: Positions | null, side: Side): Marker | null {
  const rule: unknown = positions;
  const found = isObject(rule) ? rule[side] : null;
  return typeof found === "string" ? found : numbers(found);
}

export const ruleOf = (side: Side, marker: Marker): Positions =>
  side === "after" ? { after: marker } : { until: marker };

/** A marker as it is typed: text, or ids in brackets. */
export function readMarker(text: string): Marker | null {
  if (/^\s*\[[\d\s,]+\]\s*$/.test(text)) {
    const ids = text.match(/\d+/g)?.map(Number) ?? [];
    return ids.length > 0 ? ids : null;
  }
  return text === "" ? null : text.replaceAll("\\n", "\n");
}

export const writeMarker = (marker: Marker): string =>
  typeof marker === "string" ? marker.replaceAll("\n", "\\n") : `[${marker.join(", ")}]`;

/** The rule in a field that anybody may have written; null: none. */
export function readPositions(value: unknown): Positions | null {
  if (typeof value === "string") return NAMED.includes(value) ? (value as Positions) : null;
  if (!isObject(value)) return null;
  return finite(value.start) === null && finite(value.stop) === null && !SIDES.some((one) => one in value)
    ? null
    : (value as Positions);
}
