import { Problem, isObject, problemOf } from "./problem";
import { words } from "../strings";

/**
 * The JSON of each event of a stream, until `[DONE]`. Throws `Problem` for an error in the stream, and for a stream that
 * ends without `[DONE]`: the server went away, and what came is not the whole answer.
 */
export async function* events(response: Response): AsyncGenerator<Record<string, unknown>> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await read(reader);
    if (done) break;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield parsed(data);
    }
  }
  throw new Problem(words.errors.brokenOff, 0);
}

async function read(reader: ReadableStreamDefaultReader<string>): Promise<ReadableStreamReadResult<string>> {
  try {
    return await reader.read();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(words.errors.brokenOff, 0);
  }
}

function parsed(data: string): Record<string, unknown> {
  const value: unknown = JSON.parse(data);
  if (!isObject(value)) throw new Problem(words.errors.brokenOff, 0);
  if (value.error) throw problemOf(value, 500, words.errors.brokenOff);
  return value;
}
