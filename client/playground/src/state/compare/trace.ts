import { signal, type Signal } from "@preact/signals";

/** One line of a chart: a number for each token. */
export interface Property {
  readonly name: string;
  readonly values: number[];
  /** Of composition: how far the vector moved the distribution of the next token there. */
  readonly divergences: number[] | null;
}

/** `dynamic` for what composition found, else the measure of what was read. */
export type Kind = string;

/** Numbers by token that belong into one chart. */
export class Trace {
  readonly properties: Property[] = [];
  /** Goes up when what is to be drawn has changed. */
  readonly version = signal(0);
  private readonly seen = { low: Infinity, high: -Infinity };
  private dirty = false;

  constructor(
    readonly kind: Kind,
    /** Whether its tokens are those of the answer; else those of the prompt. */
    readonly ofAnswer: boolean,
    /** The token under the pointer, in the text or in the chart. */
    readonly pointed: Signal<number | null>,
    /** The largest number that any property may have; null where nobody knows. */
    private readonly cap: number | null,
  ) {}

  /** Number of tokens. */
  get length(): number {
    return this.properties[0]?.values.length ?? 0;
  }

  /** What no tint and a full one mean: from nothing to the cap, or what was read so far. */
  get ends(): { low: number; high: number } {
    if (this.cap !== null) return { low: 0, high: this.cap };
    const { low, high } = this.seen;
    return low < high ? { low, high } : { low: 0, high: 1 };
  }

  /** Add numbers of a property: those behind the first `known`. */
  push(name: string, values: readonly number[], divergences: readonly number[] | null, known = 0): void {
    const property = this.property(name, divergences !== null);
    for (const value of values.slice(known)) {
      property.values.push(value);
      this.seen.low = Math.min(this.seen.low, value);
      this.seen.high = Math.max(this.seen.high, value);
    }
    property.divergences?.push(...(divergences ?? []).slice(known));
    this.dirty = true;
  }

  /** Take what `values`, which is all of a property, has more than what came in parts. */
  complete(name: string, values: readonly number[], divergences: readonly number[] | null): void {
    this.push(name, values, divergences, this.property(name, divergences !== null).values.length);
  }

  publish(): void {
    if (this.dirty) this.version.value += 1;
    this.dirty = false;
  }

  private property(name: string, diverges: boolean): Property {
    let found = this.properties.find((one) => one.name === name);
    if (!found) {
      found = { name, values: [], divergences: diverges ? [] : null };
      this.properties.push(found);
    }
    return found;
  }
}
