import { call, json, sending } from "./http";
import type { Inspection, Preset, Vector, WholeVector } from "./types";

const VECTORS = "v1/steering/vectors";
const PRESETS = "v1/steering/presets";
const PAGE = 100;

export type VectorPatch = Partial<Pick<Vector, "description" | "coefficient" | "layers" | "positions" | "safe_range">>;

/** All vectors, page by page. `onPage` gets those of each page as it comes. */
export async function listVectors(onPage: (vectors: Vector[]) => void): Promise<void> {
  let after: string | null = null;
  do {
    const query: string = after === null ? "" : `&after=${encodeURIComponent(after)}`;
    const page: { data: Vector[]; last_id: string | null; has_more: boolean } = await json(
      `${VECTORS}?limit=${PAGE}${query}`,
    );
    onPage(page.data);
    after = page.has_more ? page.last_id : null;
  } while (after !== null);
}

export const getVector = (id: string): Promise<WholeVector> => json(`${VECTORS}/${encodeURIComponent(id)}`);

export const inspectVector = (id: string, count = 6): Promise<Inspection> =>
  json(`${VECTORS}/${encodeURIComponent(id)}/inspect?count=${count}`);

export const patchVector = (id: string, patch: VectorPatch): Promise<WholeVector> =>
  json(`${VECTORS}/${encodeURIComponent(id)}`, sending("PATCH", patch));

export async function deleteVector(id: string, force: boolean): Promise<void> {
  await call(`${VECTORS}/${encodeURIComponent(id)}${force ? "?force=true" : ""}`, { method: "DELETE" });
}

export function uploadVector(file: Blob, filename: string, name: string | null): Promise<WholeVector> {
  const form = new FormData();
  form.append("file", file, filename);
  if (name) form.append("name", name);
  return json(VECTORS, { method: "POST", body: form });
}

export async function vectorContent(id: string): Promise<Blob> {
  return (await call(`${VECTORS}/${encodeURIComponent(id)}/content`)).blob();
}

export async function listPresets(): Promise<Preset[]> {
  return (await json<{ data: Preset[] }>(PRESETS)).data;
}

export const createPreset = (name: string, steering: unknown): Promise<Preset> =>
  json(PRESETS, sending("POST", { name, steering }));

export const patchPreset = (name: string, steering: unknown): Promise<Preset> =>
  json(`${PRESETS}/${encodeURIComponent(name)}`, sending("PATCH", { steering }));

export async function deletePreset(name: string): Promise<void> {
  await call(`${PRESETS}/${encodeURIComponent(name)}`, { method: "DELETE" });
}
