/** A gate as the `gate` of a use, and back. */

import { isObject } from "../api/problem";
import type { Vector, WholeVector } from "../api/types";
import type { Gate } from "./mix";
import { finite } from "./numbers";

export function gateField(gate: Gate): Record<string, unknown> {
  const { id, layer, measure, side, threshold, over } = gate;
  return { id, layer, measure, [side]: threshold, over };
}

/** Null for what is not a gate. */
export function readGate(value: unknown): Gate | null {
  if (!isObject(value) || typeof value.id !== "string" || typeof value.measure !== "string") return null;
  const [above, below, layer] = [finite(value.above), finite(value.below), finite(value.layer)];
  const threshold = above ?? below;
  if (threshold === null || layer === null || (above !== null && below !== null)) return null;
  const over = typeof value.over === "string" ? value.over : "token";
  return { id: value.id, layer, measure: value.measure, side: above !== null ? "above" : "below", threshold, over };
}

/** The gate that an extraction found for `vector`, which was made for one; null for others. */
export function ownGate(vector: WholeVector | undefined, id: string): Gate | null {
  const found = vector?.method_settings.gate;
  return isObject(found) ? readGate({ ...found, id }) : null;
}

/** The layers at which `vector` can measure. */
export function layersOf(vector: Vector | undefined): number[] {
  return [...new Set((vector?.tensors ?? []).map((one) => one.layer))].sort((a, b) => a - b);
}

/** The layer at which `vector` can measure for a use at `steered`: its last one that is not behind them. */
export function layerFor(vector: Vector | undefined, steered: readonly number[]): number {
  const layers = layersOf(vector);
  const first = Math.min(...steered);
  return layers.filter((one) => one <= first).at(-1) ?? layers[0] ?? 0;
}
