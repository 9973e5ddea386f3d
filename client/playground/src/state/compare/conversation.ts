import { computed, signal } from "@preact/signals";

import { streamChat } from "../../api/chat";
import { isAlive } from "../../api/http";
import { Problem } from "../../api/problem";
import type { ChatBody, Message } from "../../api/types";
import { words } from "../../strings";
import { fieldOf } from "../../steering/field";
import type { Mix } from "../../steering/mix";
import { Answer } from "./answer";
import { columns, type Column } from "./columns";
import { boundTo, model, unsteered } from "../server";

/** What the user said, and the answer of each column by the column's id. */
export interface Turn {
  readonly id: number;
  readonly said: string;
  readonly answers: ReadonlyMap<number, Answer>;
}

export interface Sampling {
  seed: number;
  temperature: number;
  max_tokens: number;
}

export const turns = signal<readonly Turn[]>([]);
export const draft = signal<string>(words.compare.firstMessage);
export const sampling = signal<Sampling>({ seed: 2, temperature: 0.7, max_tokens: 120 });
/** Whether a column answers again when its sliders have changed. */
export const answersAgain = signal(true);

export const running = computed(() => turns.value.some((turn) => [...turn.answers.values()].some((one) => one.isRunning)));

let ids = 0;

/** Say the draft in all columns. */
export function send(): void {
  const said = draft.value.trim();
  if (!said || !model.value) return;
  draft.value = "";
  say(said, turns.value);
}

/** Say something else in place of `turn`; what came after it goes. */
export function resend(turn: Turn, said: string): void {
  stop();
  const before = turns.value.slice(0, turns.value.indexOf(turn));
  say(said, before);
}

function say(said: string, before: readonly Turn[]): void {
  ids += 1;
  const answers = new Map(columns.value.map((column) => [column.id, ask(column, [...before], said)]));
  turns.value = [...before, { id: ids, said, answers }];
}

/** Answer the last message anew in `column`, with its mix of now. */
export function answerAgain(column: Column): void {
  const last = turns.value[turns.value.length - 1];
  if (!last) return;
  last.answers.get(column.id)?.stopper.abort();
  const before = turns.value.slice(0, -1);
  const answers = new Map(last.answers).set(column.id, ask(column, before, last.said));
  turns.value = [...before, { ...last, answers }];
}

/** A conversation that nobody has answered yet, as a link has it. */
export function setSaid(said: readonly string[]): void {
  turns.value = said.map((text) => ({ id: (ids += 1), said: text, answers: new Map() }));
}

/** Answer every message anew, one after another: each answer is part of the next request. */
export async function replay(): Promise<void> {
  stop();
  const said = turns.value.map((turn) => turn.said);
  turns.value = [];
  for (const text of said) {
    say(text, turns.value);
    const mine = turns.value;
    await Promise.all([...mine[mine.length - 1]!.answers.values()].map((one) => one.ended));
    if (turns.value !== mine) return;
  }
}

/** Give a new column the answers of the one that it was copied from. */
export function copyAnswers(from: number, to: number): void {
  turns.value = turns.value.map((turn) => {
    const answer = turn.answers.get(from);
    return answer ? { ...turn, answers: new Map(turn.answers).set(to, answer) } : turn;
  });
}

/** Stop all answers that still come. */
export function stop(): void {
  for (const turn of turns.value) for (const answer of turn.answers.values()) answer.stopper.abort();
}

export function clear(): void {
  stop();
  const first = turns.value[0];
  if (first && !draft.value) draft.value = first.said;
  turns.value = [];
}

/** The request that a column makes for `said`. */
export function requestOf(mix: Mix, column: number, before: readonly Turn[], said: string): ChatBody {
  const messages: Message[] = [];
  for (const turn of before) {
    messages.push({ role: "user", content: turn.said });
    const text = turn.answers.get(column)?.text;
    if (text) messages.push({ role: "assistant", content: text });
  }
  messages.push({ role: "user", content: said });
  // A key that is bound to a preset would be refused, whatever else the request said.
  if (boundTo.value !== null) return { model: model.value, messages, ...sampling.value };
  // A preset goes by its name: it may be pinned, and the receipt says that it was used.
  const name = mix.preset ? `${model.value}:${mix.preset}` : model.value;
  const field = mix.preset ? undefined : fieldOf(mix);
  const steering = mix.preset ? {} : field ? { steering: field } : unsteered();
  return { model: name, messages, ...sampling.value, ...steering };
}

function ask(column: Column, before: readonly Turn[], said: string): Answer {
  const answer = new Answer(requestOf(column.mix, column.id, before, said));
  void follow(answer);
  return answer;
}

async function follow(answer: Answer): Promise<void> {
  try {
    for await (const chunk of streamChat(answer.body, answer.stopper.signal)) answer.take(chunk);
    answer.end("done");
  } catch (error) {
    if (answer.stopper.signal.aborted) answer.end("stopped");
    else if (error instanceof Problem) {
      answer.end(error.status === 0 ? "broken" : "refused", error);
      if (error.status === 0) void isAlive();
    } else throw error;
  }
}
