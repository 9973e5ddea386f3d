import { signal } from "@preact/signals";

import { listJobs } from "../api/jobs";
import { Problem } from "../api/problem";
import type { Job } from "../api/types";
import { loadVectors } from "./vectors";

const EVERY_MS = 1000;

/** All jobs that this key may see, the newest first. */
export const jobs = signal<readonly Job[]>([]);
export const jobsProblem = signal<Problem | null>(null);

export const isOver = (job: Job): boolean => ["succeeded", "failed", "cancelled"].includes(job.status);

let watching: ReturnType<typeof setTimeout> | null = null;

/** Look at the jobs, and go on looking while one of them runs. */
export async function watchJobs(): Promise<void> {
  if (watching !== null) clearTimeout(watching);
  watching = null;
  const over = new Set(jobs.value.filter(isOver).map((one) => one.id));
  try {
    jobs.value = await listJobs();
    jobsProblem.value = null;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    jobsProblem.value = error;
    return;
  }
  // A short job may be over when it is seen for the first time.
  if (jobs.value.some((one) => isOver(one) && !over.has(one.id))) await loadVectors();
  if (jobs.value.some((one) => !isOver(one))) watching = setTimeout(() => void watchJobs(), EVERY_MS);
}
