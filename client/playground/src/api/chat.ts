import { call, json, sending } from "./http";
import { events } from "./events";
import { isObject } from "./problem";
import type { ChatBody, Part, ReadPart, Receipt } from "./types";

/** One chunk of an answer. */
export interface Chunk {
  text: string;
  /** Of a dynamic request: what belongs to this chunk's tokens, by property. */
  dynamic: Record<string, Part> | null;
  /** Of a request that reads: likewise. */
  reads: ReadPart[];
  /** In full, on the chunk that ends the answer. */
  receipt: Receipt | null;
  finish: string | null;
  tokens: number | null;
}

/** The chunks of the answer to `body`. */
export async function* streamChat(body: ChatBody, signal: AbortSignal): AsyncGenerator<Chunk> {
  const sent = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await call("v1/chat/completions", { ...sending("POST", sent), signal });
  for await (const event of events(response)) yield chunkOf(event);
}

function chunkOf(event: Record<string, unknown>): Chunk {
  const choices = Array.isArray(event.choices) ? event.choices : [];
  const choice: unknown = choices[0];
  const first = isObject(choice) ? choice : {};
  const delta = isObject(first.delta) ? first.delta : {};
  const steering = isObject(event.steering) ? (event.steering as unknown as Receipt) : null;
  const usage = isObject(event.usage) ? event.usage : {};
  return {
    text: typeof delta.content === "string" ? delta.content : "",
    // A chunk with `vectors` has the receipt of the whole in place of a part.
    dynamic: (steering && !steering.vectors && steering.dynamic) || null,
    reads: (steering && !steering.vectors && steering.reads) || [],
    receipt: steering?.vectors ? steering : null,
    finish: typeof first.finish_reason === "string" ? first.finish_reason : null,
    tokens: typeof usage.completion_tokens === "number" ? usage.completion_tokens : null,
  };
}

export interface GreedyAnswer {
  text: string;
  promptTokens: number[];
  tokens: number[];
}

/** The whole answer at temperature 0, with the ids of its tokens. */
export async function greedyAnswer(body: ChatBody, signal: AbortSignal): Promise<GreedyAnswer> {
  const sent = { ...body, temperature: 0, return_token_ids: true };
  const answer = await json<{
    prompt_token_ids: number[];
    choices: { message: { content: string | null }; token_ids: number[] }[];
  }>("v1/chat/completions", { ...sending("POST", sent), signal });
  const choice = answer.choices[0]!;
  return { text: choice.message.content ?? "", promptTokens: answer.prompt_token_ids, tokens: choice.token_ids };
}

/** Log-probabilities (natural) of the tokens of `answer` under the model that `asked` names. */
export async function scoreAnswer(
  asked: { model: string; steering?: null },
  answer: GreedyAnswer,
  signal: AbortSignal,
): Promise<number[]> {
  if (answer.tokens.length === 0) return [];
  const prompt = [...answer.promptTokens, ...answer.tokens];
  const body = { ...asked, prompt, max_tokens: 1, temperature: 0, prompt_logprobs: 0 };
  const scored = await json<{ choices: { prompt_logprobs: (Record<string, { logprob: number }> | null)[] }[] }>(
    "v1/completions",
    { ...sending("POST", body), signal },
  );
  const behind = scored.choices[0]!.prompt_logprobs.slice(answer.promptTokens.length);
  return answer.tokens.map((token, n) => behind[n]![String(token)]!.logprob);
}
