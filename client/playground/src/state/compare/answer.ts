import { signal, type Signal } from "@preact/signals";

import type { Chunk } from "../../api/chat";
import { isObject, type Problem } from "../../api/problem";
import type { ChatBody, Receipt } from "../../api/types";
import { finite } from "../../steering/numbers";
import { Traces } from "./traces";

export type Status = "waiting" | "streaming" | "done" | "stopped" | "broken" | "refused";

/** A piece of an answer: what came in one chunk, which mostly is one token. */
export interface Piece {
  readonly text: string;
  /** Its first token's place in the trace, and how many tokens it has there; null where nothing is known by token. */
  readonly token: number | null;
  readonly tokens: number;
}

/** Pieces that are drawn together: all but the last block are drawn once. */
export interface Block {
  readonly id: number;
  readonly pieces: Signal<readonly Piece[]>;
}

const PIECES_A_BLOCK = 40;

/** The largest coefficient of a dynamic request. */
function capOf(steering: Record<string, unknown> | null | undefined): number {
  const uses = Array.isArray(steering?.vectors) ? steering.vectors.filter(isObject) : [];
  return Math.max(0, ...uses.map((use) => finite(use.coefficient) ?? 0));
}

let ids = 0;

/** One answer, while it comes and after. */
export class Answer {
  readonly id = (ids += 1);
  readonly status = signal<Status>("waiting");
  readonly blocks = signal<readonly Block[]>([]);
  readonly receipt = signal<Receipt | null>(null);
  readonly problem = signal<Problem | null>(null);
  readonly finish = signal<string | null>(null);
  readonly tokens = signal<number | null>(null);
  readonly seconds = signal<number | null>(null);
  readonly traces: Traces;
  readonly stopper = new AbortController();
  /** Settles when nothing more comes, however it ended. */
  readonly ended: Promise<void>;
  private settle!: () => void;
  private came: Piece[] = [];
  private drawing: ReturnType<typeof setTimeout> | number | null = null;
  private readonly began = performance.now();

  constructor(readonly body: ChatBody) {
    this.ended = new Promise((resolve) => (this.settle = resolve));
    this.traces = new Traces(capOf(body.steering) || 1);
  }

  get text(): string {
    const drawn = this.blocks.value.flatMap((block) => block.pieces.value);
    return [...drawn, ...this.came].map((piece) => piece.text).join("");
  }

  get isRunning(): boolean {
    return this.status.value === "waiting" || this.status.value === "streaming";
  }

  take(chunk: Chunk): void {
    if (this.status.value === "waiting") this.status.value = "streaming";
    const first = this.traces.length;
    this.traces.add(chunk.dynamic, chunk.reads);
    if (chunk.receipt) {
      this.receipt.value = chunk.receipt;
      // The chunk that ends an answer has the whole in place of its own part.
      this.traces.complete(chunk.receipt.dynamic, chunk.receipt.reads ?? []);
    }
    if (chunk.finish) this.finish.value = chunk.finish;
    if (chunk.tokens !== null) this.tokens.value = chunk.tokens;
    const made = this.traces.length - first;
    if (chunk.text) this.came.push({ text: chunk.text, token: made > 0 ? first : null, tokens: made });
    this.draw();
  }

  end(status: Status, problem: Problem | null = null): void {
    this.flush();
    this.seconds.value = (performance.now() - this.began) / 1000;
    this.problem.value = problem;
    this.status.value = status;
    this.settle();
  }

  /** Soon: what comes within a frame is drawn together. */
  private draw(): void {
    if (this.drawing !== null) return;
    this.drawing = document.hidden ? setTimeout(this.flush, 250) : requestAnimationFrame(this.flush);
  }

  private readonly flush = (): void => {
    this.drawing = null;
    let blocks = this.blocks.value;
    for (const piece of this.came) {
      const last = blocks[blocks.length - 1];
      if (last && last.pieces.peek().length < PIECES_A_BLOCK) {
        last.pieces.value = [...last.pieces.peek(), piece];
      } else {
        blocks = [...blocks, { id: blocks.length, pieces: signal([piece]) }];
      }
    }
    this.came = [];
    this.blocks.value = blocks;
    this.traces.publish();
  };
}
