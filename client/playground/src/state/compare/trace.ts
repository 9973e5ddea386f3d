import { signal } from "@preact/signals";

import type { Part } from "../../api/types";

/** One property's numbers by token. */
export interface Property {
  readonly name: string;
  readonly coefficients: number[];
  readonly divergences: number[];
}

/** What dynamic composition found for each token of an answer. */
export class Trace {
  readonly properties: Property[] = [];
  /** Goes up when what is to be drawn has changed. */
  readonly version = signal(0);
  /** The token under the pointer, in the text or in the chart. */
  readonly pointed = signal<number | null>(null);
  /** The largest coefficient that any property may have: what a full tint means. */
  cap = 1;
  private dirty = false;

  /** Number of tokens. */
  get length(): number {
    return this.properties[0]?.coefficients.length ?? 0;
  }

  /** Add the next tokens' numbers. Returns how many tokens these are. */
  add(part: Record<string, Part>): number {
    const before = this.length;
    for (const [name, { coefficients, divergences }] of Object.entries(part)) {
      const property = this.property(name);
      property.coefficients.push(...coefficients);
      property.divergences.push(...divergences);
    }
    this.dirty = true;
    return this.length - before;
  }

  /** Take what `whole` has more than what came in parts. */
  complete(whole: Record<string, Part>): void {
    for (const [name, { coefficients, divergences }] of Object.entries(whole)) {
      const property = this.property(name);
      property.coefficients.push(...coefficients.slice(property.coefficients.length));
      property.divergences.push(...divergences.slice(property.divergences.length));
    }
    this.dirty = true;
  }

  publish(): void {
    if (this.dirty) this.version.value += 1;
    this.dirty = false;
  }

  private property(name: string): Property {
    let found = this.properties.find((one) => one.name === name);
    if (!found) {
      found = { name, coefficients: [], divergences: [] };
      this.properties.push(found);
    }
    return found;
  }
}
