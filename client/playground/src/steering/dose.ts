import type { Vector, WholeVector } from "../api/types";
import type { Use } from "./mix";

/**
 * The relative dose of a use: ||c v|| over the median length of the residual stream, summed over its layers. Null where
 * the vector's file or the server has no norms; the receipt has it then, if the server knows it.
 */
export function doseOf(use: Use, vector: WholeVector | undefined, medians: Record<string, number> | null): number | null {
  if (!vector || !medians || !adds(use, vector)) return null;
  const wanted = new Set(use.layers ?? vector.layers);
  let sum = 0;
  for (const tensor of vector.tensors) {
    if (!wanted.has(tensor.layer)) continue;
    const norm = vector.norms[tensor.name];
    const median = medians[tensor.name];
    if (norm === undefined || median === undefined) return null;
    sum += (Math.abs(strongest(use)) * norm) / median;
  }
  return sum;
}

/** Whether the use adds the vector: what reads the stream has no dose before the stream is there. */
export function adds(use: Use, vector: Vector | undefined): boolean {
  return (use.operation ?? vector?.operation ?? "add") === "add";
}

/** Of a list its strongest coefficient, as in receipts. */
function strongest(use: Use): number {
  return use.schedule.kind === "list" ? Math.max(0, ...use.schedule.coefficients.map(Math.abs)) : use.coefficient;
}
