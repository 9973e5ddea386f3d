import { isPlain } from "./field";
import type { Mix } from "./mix";

/** The model id that steers as `mix` does; null if no name can say it. */
export function modelName(base: string, mix: Mix): string | null {
  if (mix.reads.length > 0) return null;
  if (mix.preset) return `${base}:${mix.preset}`;
  if (mix.uses.length === 0) return base;
  const names = new Set(mix.uses.map((use) => use.id));
  const more = Object.keys(mix.more).length > 0;
  // An id that pins a version has an @ of its own.
  const sayable = mix.uses.every((use) => isPlain(use) && !use.id.includes("@"));
  if (mix.dynamic || more || !sayable || names.size < mix.uses.length) return null;
  return `${base}:${mix.uses.map((use) => `${use.id}@${use.coefficient}`).join(",")}`;
}
