import { signal } from "@preact/signals";

import type { Part, ReadPart } from "../../api/types";
import { words } from "../../strings";
import { Trace, type Kind } from "./trace";

export const DYNAMIC = "dynamic";

type Take = (trace: Trace, name: string, values: readonly number[], divergences: readonly number[] | null) => void;

/** All that is known of an answer token by token: what composition found, and what was read. */
export class Traces {
  /** In the order in which they came; each is a chart. */
  readonly list = signal<readonly Trace[]>([]);
  /** The token of the answer under the pointer. */
  readonly pointed = signal<number | null>(null);

  /** `cap`: the largest coefficient of a dynamic request. */
  constructor(private readonly cap: number) {}

  /** Number of tokens of the answer of which something is known. */
  get length(): number {
    return Math.max(0, ...this.list.peek().map((one) => (one.ofAnswer ? one.length : 0)));
  }

  /** Add the next tokens' numbers. */
  add(dynamic: Record<string, Part> | null, reads: readonly ReadPart[]): void {
    // The prompt's numbers come whole, and may come again.
    this.take(dynamic, reads, (trace, ...numbers) => (trace.ofAnswer ? trace.push(...numbers) : trace.complete(...numbers)));
  }

  /** Take what the whole has more than what came in parts. */
  complete(dynamic: Record<string, Part> | null, reads: readonly ReadPart[]): void {
    this.take(dynamic, reads, (trace, ...numbers) => trace.complete(...numbers));
  }

  publish(): void {
    for (const trace of this.list.peek()) trace.publish();
  }

  private take(dynamic: Record<string, Part> | null, reads: readonly ReadPart[], take: Take): void {
    for (const [name, part] of Object.entries(dynamic ?? {})) {
      take(this.trace(DYNAMIC, true), name, part.coefficients, part.divergences);
    }
    const names = new Map<string, number>();
    for (const { id, measure, tokens, values } of reads) {
      // One number, which the receipt has, is no line.
      if (tokens === "last") continue;
      for (const [place, list] of Object.entries(values)) {
        const name = words.reads.line(id, place);
        const key = `${measure} ${tokens} ${name}`;
        const nth = (names.get(key) ?? 0) + 1;
        names.set(key, nth);
        take(this.trace(measure, tokens === "answer"), nth > 1 ? `${name} #${nth}` : name, list, null);
      }
    }
  }

  private trace(kind: Kind, ofAnswer: boolean): Trace {
    const found = this.list.peek().find((one) => one.kind === kind && one.ofAnswer === ofAnswer);
    if (found) return found;
    const pointed = ofAnswer ? this.pointed : signal<number | null>(null);
    const made = new Trace(kind, ofAnswer, pointed, kind === DYNAMIC ? this.cap : null);
    this.list.value = [...this.list.peek(), made];
    return made;
  }
}
