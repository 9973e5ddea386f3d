/** A mix as the `steering` field of a request, and back. */

import { isObject } from "../api/problem";
import { gateField, readGate } from "./gate";
import { DYNAMIC, OPERATION_SETTINGS, newUse } from "./mix";
import type { Dynamic, Mix, OperationSetting, Schedule, Use } from "./mix";
import { finite, numbers } from "./numbers";
import { readPositions } from "./positions";
import { readField, readReads } from "./reads";

export type Field = Record<string, unknown>;

/** The value of `steering` that says `mix`; null for one that neither steers nor reads. */
export function fieldOf(mix: Mix): Field | null {
  const field = { ...vectorsOf(mix), ...(mix.reads.length > 0 ? { read: mix.reads.map(readField) } : {}) };
  return Object.keys(field).length > 0 ? field : null;
}

/** What steers in `mix`: its field without what is read, as presets have it. */
export function vectorsOf(mix: Mix): Field {
  if (mix.uses.length === 0) return {};
  const plain = mix.dynamic === null && mix.uses.every(isPlain) && namesDiffer(mix.uses);
  const vectors = plain
    ? Object.fromEntries(mix.uses.map((use) => [use.id, use.coefficient]))
    : mix.uses.map((use) => useField(use, mix.dynamic !== null));
  return { vectors, ...mix.more, ...(mix.dynamic ? { dynamic: mix.dynamic } : {}) };
}

/** Whether the use is nothing but a name and a coefficient. */
export function isPlain(use: Use): boolean {
  const { layers, positions, schedule, operation, settings, gate, more } = use;
  const nothingElse = Object.keys(settings).length === 0 && Object.keys(more).length === 0;
  const asItIs = layers === null && positions === null && operation === null && gate === null;
  return asItIs && schedule.kind === "constant" && nothingElse;
}

function namesDiffer(uses: readonly Use[]): boolean {
  return new Set(uses.map((use) => use.id)).size === uses.length;
}

function useField(use: Use, dynamic: boolean): Field {
  const field: Field = { id: use.id, ...use.more };
  if (use.operation) field.operation = use.operation;
  Object.assign(field, use.settings);
  if (use.layers) field.layers = use.layers;
  if (dynamic) {
    // Composition finds the coefficient; what the slider says is the most that it may be.
    field.coefficient = Math.max(0, use.coefficient);
    return field;
  }
  if (use.positions !== null) field.positions = use.positions;
  if (use.gate !== null) field.gate = gateField(use.gate);
  const schedule = use.schedule;
  if (schedule.kind === "list") {
    field.schedule = schedule.coefficients;
    if (schedule.hold) field.after = "hold";
    return field;
  }
  field.coefficient = use.coefficient;
  if (schedule.kind === "start") field.schedule = "start";
  if (schedule.kind === "diminishing") {
    field.schedule = "diminishing";
    field.over = schedule.over;
  }
  return field;
}

/** The mix that `field` says. `own` gives a vector's own coefficient. What has no control here goes along as it is. */
export function mixOf(field: Field, own: (id: string) => number, preset: string | null = null): Mix {
  const { vectors, dynamic, schedule, over, after, read, ...more } = field;
  const shared = { schedule, over, after };
  const list = Array.isArray(vectors)
    ? vectors.filter(isObject)
    : Object.entries(isObject(vectors) ? vectors : {}).map(([id, coefficient]) => ({ id, coefficient }));
  const uses = list.map((use) => readUse(use, shared, own));
  const reads = readReads(read);
  // A preset holds no reads: with some, it is no longer the preset alone.
  return { uses, dynamic: readDynamic(dynamic), reads, preset: reads.length > 0 ? null : preset, more };
}

function readUse(field: Field, shared: Field, own: (id: string) => number): Use {
  const { id, coefficient, scale, layers, positions, schedule, over, after, operation, gate, ...rest } = field;
  const readable = readGate(gate);
  // What is not a gate goes along as it is: the server says what is wrong with it.
  const [settings, more] = parted(readable || gate == null ? rest : { ...rest, gate });
  const name = typeof id === "string" ? id : "";
  const given = finite(coefficient) ?? finite(scale);
  const how = readSchedule(schedule ?? shared.schedule, over ?? shared.over, after ?? shared.after);
  return {
    ...newUse(name, given ?? own(name)),
    layers: numbers(layers),
    positions: readPositions(positions),
    schedule: how,
    operation: typeof operation === "string" ? operation : null,
    settings,
    gate: readable,
    more,
  };
}

const SETTINGS = new Set(Object.values(OPERATION_SETTINGS).flat());

/** The settings of operations in `field`, and the rest of it. Null means: as the vector has it. */
function parted(field: Field): [Record<string, OperationSetting>, Field] {
  const settings: Record<string, OperationSetting> = {};
  const more: Field = {};
  for (const [name, value] of Object.entries(field)) {
    if (value === null) continue;
    if (SETTINGS.has(name) && typeof value !== "object") settings[name] = value as OperationSetting;
    else more[name] = value;
  }
  return [settings, more];
}

function readSchedule(schedule: unknown, over: unknown, after: unknown): Schedule {
  const list = numbers(schedule);
  if (list) return { kind: "list", coefficients: list, hold: after === "hold" };
  if (schedule === "start") return { kind: "start" };
  if (schedule === "diminishing") return { kind: "diminishing", over: finite(over) ?? 1 };
  return { kind: "constant" };
}

function readDynamic(value: unknown): Dynamic | null {
  if (!isObject(value)) return null;
  return {
    start: finite(value.start) ?? DYNAMIC.start,
    max: finite(value.max) ?? DYNAMIC.max,
    top_p: finite(value.top_p) ?? DYNAMIC.top_p,
    kl: value.kl === "sum" ? "sum" : "mean",
    every: finite(value.every) ?? DYNAMIC.every,
  };
}
