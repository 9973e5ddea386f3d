import { signal } from "@preact/signals";

import { greedyAnswer, scoreAnswer } from "../api/chat";
import { Problem } from "../api/problem";
import { model, unsteered } from "../state/server";

/** The vector that the sweep's form is about. */
export const sweepVector = signal("");

export interface Cell {
  readonly coefficient: number;
  readonly texts: readonly string[];
  /** Words found in 100 words. */
  readonly found: number;
  /** Of the answers under the unsteered model. */
  readonly perplexity: number;
  /** Share of runs of three tokens that occurred before. */
  readonly repeated: number;
  /** Why the server refused this coefficient. */
  readonly refused: string | null;
}

export interface SweepRun {
  readonly vector: string;
  readonly done: number;
  readonly all: number;
  readonly cells: readonly Cell[];
  readonly problem: Problem | null;
  readonly running: boolean;
}

export const sweepRun = signal<SweepRun | null>(null);
let stopper: AbortController | null = null;

export interface SweepPlan {
  vector: string;
  coefficients: readonly number[];
  prompts: readonly string[];
  words: readonly string[];
  maxTokens: number;
}

/** Answer every prompt at every coefficient, unsteered first, and score the answers. */
export async function runSweep(plan: SweepPlan): Promise<void> {
  stopper = new AbortController();
  const signal_ = stopper.signal;
  const coefficients = [0, ...plan.coefficients.filter((one) => one !== 0)];
  let run: SweepRun = {
    vector: plan.vector,
    done: 0,
    all: coefficients.length * plan.prompts.length,
    cells: [],
    problem: null,
    running: true,
  };
  const publish = (change: Partial<SweepRun>) => (sweepRun.value = run = { ...run, ...change });
  publish({});
  try {
    for (const coefficient of coefficients) {
      const cell = await runCell(plan, coefficient, signal_);
      const cells = [...run.cells, cell].sort((a, b) => a.coefficient - b.coefficient);
      publish({ cells, done: run.done + plan.prompts.length });
    }
    publish({ running: false });
  } catch (error) {
    if (!signal_.aborted && !(error instanceof Problem)) throw error;
    publish({ running: false, problem: error instanceof Problem ? error : null });
  }
}

export function stopSweep(): void {
  stopper?.abort();
}

async function runCell(plan: SweepPlan, coefficient: number, signal_: AbortSignal): Promise<Cell> {
  const steering = coefficient === 0 ? unsteered() : { steering: { vectors: { [plan.vector]: coefficient } } };
  try {
    const scored = await Promise.all(
      plan.prompts.map(async (prompt) => {
        const messages = [{ role: "user" as const, content: prompt }];
        const answer = await greedyAnswer({ model: model.value, messages, max_tokens: plan.maxTokens, ...steering }, signal_);
        return { answer, logprobs: await scoreAnswer({ model: model.value, ...unsteered() }, answer, signal_) };
      }),
    );
    return {
      coefficient,
      texts: scored.map(({ answer }) => answer.text),
      found: mean(scored.map(({ answer }) => wordsFound(answer.text, plan.words))),
      perplexity: Math.exp(-mean(scored.flatMap(({ logprobs }) => logprobs))),
      repeated: mean(scored.map(({ answer }) => repetition(answer.tokens))),
      refused: null,
    };
  } catch (error) {
    // A dose over a limit concerns this coefficient alone.
    if (coefficient === 0 || !(error instanceof Problem) || error.status !== 400) throw error;
    return { coefficient, texts: [], found: NaN, perplexity: NaN, repeated: NaN, refused: error.message };
  }
}

const MOST_PERPLEXITY = 1.5;
const MOST_REPETITION = 0.15;

/** As in `steersman sweep` (docs/sweep.md): compared with the unsteered answers. */
export function isFluent(cell: Cell, unsteered: Cell): boolean {
  return cell.perplexity < MOST_PERPLEXITY * unsteered.perplexity && cell.repeated <= unsteered.repeated + MOST_REPETITION;
}

/** From 0 both ways to the last coefficient before one that is not fluent; null if there is none. */
export function safeRange(cells: readonly Cell[]): [number, number] | null {
  const unsteered = cells.find((one) => one.coefficient === 0);
  if (!unsteered) return null;
  const ends = [-1, 1].map((sign) => {
    const side = cells.filter((one) => one.coefficient * sign > 0).sort((a, b) => Math.abs(a.coefficient) - Math.abs(b.coefficient));
    const stop = side.findIndex((one) => !isFluent(one, unsteered));
    const last = side.slice(0, stop < 0 ? undefined : stop).at(-1);
    return last?.coefficient ?? 0;
  });
  return ends[0] === ends[1] ? null : [ends[0]!, ends[1]!];
}

/** `-2:2:0.5` (from, to, step) or `-1, 0.5, 1`. Null if it is neither, or more than fifty. */
export function readCoefficients(text: string): number[] | null {
  const range = text.split(":").map((part) => (part.trim() === "" ? NaN : Number(part)));
  if (range.length === 3) {
    const [from, to, step] = range as [number, number, number];
    const count = Math.floor((to - from) / step + 1e-9);
    if (!(step > 0) || !(count >= 0) || count > 50) return null;
    return Array.from({ length: count + 1 }, (_, n) => Number((from + n * step).toFixed(10)));
  }
  const list = text.split(",").map((part) => (part.trim() === "" ? NaN : Number(part)));
  return list.every(Number.isFinite) && list.length <= 50 ? [...new Set(list)].sort((a, b) => a - b) : null;
}

function wordsFound(text: string, wanted: readonly string[]): number {
  const all = text.toLowerCase().match(/[\p{L}\p{N}']+/gu) ?? [];
  const set = new Set(wanted.map((word) => word.toLowerCase()));
  return all.length === 0 ? 0 : (100 * all.filter((word) => set.has(word)).length) / all.length;
}

function repetition(tokens: readonly number[]): number {
  const runs = tokens.slice(2).map((_, n) => tokens.slice(n, n + 3).join());
  return runs.length === 0 ? 0 : 1 - new Set(runs).size / runs.length;
}

function mean(values: readonly number[]): number {
  return values.length === 0 ? NaN : values.reduce((sum, one) => sum + one, 0) / values.length;
}
