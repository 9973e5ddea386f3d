import { computed, signal } from "@preact/signals";

import { getVector, listVectors } from "../api/library";
import { Problem } from "../api/problem";
import type { Vector, WholeVector } from "../api/types";

/** All vectors that this key may see, by name. */
export const vectors = signal<ReadonlyMap<string, Vector>>(new Map());
export const vectorsProblem = signal<Problem | null>(null);
/** Vectors with all of their fields, as far as somebody needed them. By digest, since a name may change. */
export const wholeVectors = signal<ReadonlyMap<string, WholeVector>>(new Map());

export const usable = computed(() => [...vectors.value.values()].filter((one) => one.fits));

export async function loadVectors(): Promise<void> {
  const found = new Map<string, Vector>();
  try {
    await listVectors((page) => {
      for (const one of page) found.set(one.id, one);
      if (vectors.value.size < found.size) vectors.value = new Map(found);
    });
    vectorsProblem.value = null;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    vectorsProblem.value = error;
  }
  vectors.value = found;
}

/** The name in an id, which may pin a version: `name@<hex>`. */
export const nameOf = (id: string): string => id.split("@")[0]!;

/** The vector that a mix names. */
export const vectorOf = (id: string): Vector | undefined => vectors.value.get(nameOf(id));

const asked = new Set<string>();

/** The vector with its norms; undefined while they come, and where they cannot be had. */
export function wholeVectorOf(id: string): WholeVector | undefined {
  const listed = vectorOf(id);
  if (!listed) return undefined;
  const known = wholeVectors.value.get(listed.digest);
  if (!known && !asked.has(listed.digest)) {
    asked.add(listed.digest);
    void fetchWhole(listed.id);
  }
  return known;
}

async function fetchWhole(id: string): Promise<void> {
  try {
    const whole = await getVector(id);
    wholeVectors.value = new Map(wholeVectors.value).set(whole.digest, whole);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
}

export const ownCoefficient = (id: string): number => vectorOf(id)?.coefficient ?? 1;
