/** What can go wrong with a call, in the words of the server wherever it has some. */

export class Problem extends Error {
  constructor(
    message: string,
    /** The HTTP status; 0 where no answer came. */
    readonly status: number,
    /** The key of the request that is wrong. */
    readonly param: string | null = null,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

/** The problem in an error's JSON, OpenAI's envelope or what vLLM sends in its place. */
export function problemOf(body: unknown, status: number, fallback: string): Problem {
  const outer = isObject(body) ? body : {};
  const error = isObject(outer.error) ? outer.error : outer;
  const text = typeof outer.error === "string" ? outer.error : textOf(error.message);
  return new Problem(text ?? fallback, status, textOf(error.param), textOf(error.code));
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function textOf(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}
