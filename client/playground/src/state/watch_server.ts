import { signal } from "@preact/signals";

import { Problem } from "../api/problem";
import { getMetrics, getReady, type Ready } from "../api/server";

const EVERY_MS = 2000;

/** How many calls were refused for a reason, and when this page last saw that number rise. */
export interface Rejection {
  readonly reason: string;
  readonly count: number;
  readonly last: number | null;
}

export const ready = signal<Ready | null>(null);
/** `steering_*` of /metrics, less `steering_`; null where they cannot be read. */
export const metrics = signal<ReadonlyMap<string, number> | null>(null);
export const rejections = signal<readonly Rejection[]>([]);

/** Look at the server now and then, until the function that is returned is called. */
export function watchServer(): () => void {
  let stopped = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const look = async () => {
    await Promise.all([lookAtReady(), lookAtMetrics()]);
    if (!stopped) timer = setTimeout(() => void look(), EVERY_MS);
  };
  void look();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

async function lookAtReady(): Promise<void> {
  try {
    ready.value = await getReady();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    ready.value = null;
  }
}

async function lookAtMetrics(): Promise<void> {
  try {
    const found = new Map<string, number>();
    for (const [name, value] of await getMetrics("steering_")) found.set(name.replace("steering_", ""), value);
    metrics.value = found;
    rejections.value = rejectionsIn(found);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    metrics.value = null;
  }
}

function rejectionsIn(found: ReadonlyMap<string, number>): Rejection[] {
  const known = new Map(rejections.value.map((one) => [one.reason, one]));
  const first = known.size === 0;
  const all: Rejection[] = [];
  for (const [name, count] of found) {
    const reason = /^rejections_total\{.*reason="([^"]*)"/.exec(name)?.[1];
    if (reason === undefined) continue;
    const before = known.get(reason);
    const rose = !first && count > (before?.count ?? 0);
    all.push({ reason, count, last: rose ? Date.now() : (before?.last ?? null) });
  }
  return all.sort((a, b) => (b.last ?? 0) - (a.last ?? 0) || b.count - a.count);
}
