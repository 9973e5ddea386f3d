/** What is read of the stream, as entries of `read`, and back. */

import { isObject } from "../api/problem";
import { newRead, type Read } from "./mix";
import { numbers } from "./numbers";

export function readField({ id, layers, measure, tokens }: Read): Record<string, unknown> {
  return { id, ...(layers ? { layers } : {}), measure, tokens };
}

export function readReads(value: unknown): Read[] {
  if (!Array.isArray(value)) return [];
  return value.filter(isObject).map((one) => {
    const made = newRead(typeof one.id === "string" ? one.id : "");
    return {
      ...made,
      layers: numbers(one.layers),
      measure: typeof one.measure === "string" ? one.measure : made.measure,
      tokens: typeof one.tokens === "string" ? one.tokens : made.tokens,
    };
  });
}
