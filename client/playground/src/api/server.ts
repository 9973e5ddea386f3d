import { call, json } from "./http";
import { Problem } from "./problem";
import type { Capabilities } from "./types";

export const getCapabilities = (): Promise<Capabilities> => json("v1/steering/capabilities");

export interface Ready {
  status: string;
  reasons?: string[];
  degraded?: string[];
}

/** What `GET /ready` says, also where it says no. */
export async function getReady(): Promise<Ready> {
  try {
    return await json<Ready>("ready");
  } catch (error) {
    if (error instanceof Problem && error.status === 503) return { status: "not_ready", reasons: [error.message] };
    throw error;
  }
}

/** Samples of `GET /metrics` whose names begin with `prefix`, as `name{labels}` with its number. */
export async function getMetrics(prefix: string): Promise<Map<string, number>> {
  const text = await (await call("metrics")).text();
  const found = new Map<string, number>();
  for (const line of text.split("\n")) {
    if (!line.startsWith(prefix)) continue;
    const cut = line.lastIndexOf(" ");
    found.set(line.slice(0, cut), Number(line.slice(cut + 1)));
  }
  return found;
}
