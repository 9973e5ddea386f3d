import { call, json, sending } from "./http";
import type { Job } from "./types";

const JOBS = "v1/steering/jobs";
const EXTRACT = "v1/steering/vectors/extract";

export async function listJobs(): Promise<Job[]> {
  return (await json<{ data: Job[] }>(JOBS)).data;
}

export const getJob = (id: string): Promise<Job> => json(`${JOBS}/${encodeURIComponent(id)}`);

export async function cancelJob(id: string): Promise<void> {
  await call(`${JOBS}/${encodeURIComponent(id)}`, { method: "DELETE" });
}

/** Start an extraction. The texts are in `request`, or in `lines`, a JSONL file. */
export function extract(request: Record<string, unknown>, lines: File | null): Promise<Job> {
  if (lines === null) return json(EXTRACT, sending("POST", request));
  const form = new FormData();
  form.append("request", JSON.stringify(request));
  form.append("file", lines, lines.name);
  return json(EXTRACT, { method: "POST", body: form });
}
