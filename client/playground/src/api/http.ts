import { key, keyNeeded } from "../state/key";
import { reachable } from "../state/reachable";
import { words } from "../strings";
import { Problem, problemOf } from "./problem";

/** Where the server is: this page is at `<base>playground`, also behind a proxy that puts a path before it. */
const BASE = new URL(".", location.href).href;

/** Where clients outside of this page find the API: what `base_url` is in OpenAI's SDKs, less `/v1`. */
export const SERVER_URL = BASE.replace(/\/$/, "");

/** Call the server. Throws `Problem` unless the status is 2xx. */
export async function call(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.value) headers.set("Authorization", `Bearer ${key.value}`);
  let response: Response;
  try {
    response = await fetch(BASE + path, { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    reachable.value = false;
    throw new Problem(words.errors.unreachable, 0);
  }
  reachable.value = true;
  if (response.ok) return response;
  if (response.status === 401) keyNeeded.value = true;
  const body: unknown = await response.json().catch(() => null);
  throw problemOf(body, response.status, words.errors.status(response.status));
}

/** Ask whether the server answers at all; `reachable` has the result. */
export async function isAlive(): Promise<void> {
  await call("health").catch(() => undefined);
}

/** Call the server and read its JSON. */
export async function json<T>(path: string, init: RequestInit = {}): Promise<T> {
  return (await (await call(path, init)).json()) as T;
}

/** Send `body` as JSON. */
export function sending(method: "POST" | "PATCH", body: unknown): RequestInit {
  return { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
}
