import { computed, signal } from "@preact/signals";

import { listPresets } from "../api/library";
import { Problem } from "../api/problem";
import { getCapabilities } from "../api/server";
import type { Capabilities, Preset } from "../api/types";
import { keyNeeded } from "./key";
import { loadVectors } from "./vectors";

export const capabilities = signal<Capabilities | null>(null);
export const presets = signal<Preset[]>([]);
/** Why nothing can be shown. */
export const startProblem = signal<Problem | null>(null);

export const model = computed(() => capabilities.value?.model ?? "");

/** The preset to which this key is bound; null: requests may say how they are steered. */
export const boundTo = computed(() => {
  const given = capabilities.value?.default_preset;
  return given?.locked ? given.preset : null;
});

/** What a request needs that is to be unsteered: leaving the field out is enough, but where a default preset steers those
 * who do not say how, and lets them say so. */
export function unsteered(): { steering?: null } {
  return capabilities.value?.default_preset?.locked === false ? { steering: null } : {};
}

/** Ask the server what it is and what it has. Called at the start, and when the key has changed. */
export async function connect(): Promise<void> {
  startProblem.value = null;
  try {
    capabilities.value = await getCapabilities();
    keyNeeded.value = false;
    await Promise.all([loadVectors(), loadPresets()]);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    startProblem.value = error;
  }
}

/** A key without `vectors:read` sees no presets. */
export async function loadPresets(): Promise<void> {
  try {
    presets.value = await listPresets();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    presets.value = [];
  }
}
