/** A mix as the `steering` field of a request, and back. */

import { isObject } from "../api/problem";
import type { Positions } from "../api/types";
import { DYNAMIC, OPERATION_SETTINGS, newUse } from "./mix";
import type { Dynamic, Mix, OperationSetting, Schedule, Use } from "./mix";

export type Field = Record<string, unknown>;

/** The value of `steering` that says `mix`; null for one that does not steer. */
export function fieldOf(mix: Mix): Field | null {
  if (mix.uses.length === 0 && Object.keys(mix.more).length === 0) return null;
  const plain = mix.dynamic === null && mix.uses.every(isPlain) && namesDiffer(mix.uses);
  const vectors = plain
    ? Object.fromEntries(mix.uses.map((use) => [use.id, use.coefficient]))
    : mix.uses.map((use) => useField(use, mix.dynamic !== null));
  return { vectors, ...mix.more, ...(mix.dynamic ? { dynamic: mix.dynamic } : {}) };
}

/** Whether the use is nothing but a name and a coefficient. */
export function isPlain(use: Use): boolean {
  const { layers, positions, schedule, operation, settings, more } = use;
  const nothingElse = Object.keys(settings).length === 0 && Object.keys(more).length === 0;
  return layers === null && positions === null && schedule.kind === "constant" && operation === null && nothingElse;
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
  const { vectors, dynamic, schedule, over, after, ...more } = field;
  const shared = { schedule, over, after };
  const list = Array.isArray(vectors)
    ? vectors.filter(isObject)
    : Object.entries(isObject(vectors) ? vectors : {}).map(([id, coefficient]) => ({ id, coefficient }));
  return { uses: list.map((use) => readUse(use, shared, own)), dynamic: readDynamic(dynamic), preset, more };
}

function readUse(field: Field, shared: Field, own: (id: string) => number): Use {
  const { id, coefficient, scale, layers, positions, schedule, over, after, operation, ...rest } = field;
  const [settings, more] = parted(rest);
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

function readPositions(value: unknown): Positions | null {
  if (value === "generation" || value === "after_prompt" || value === "prompt" || value === "all") return value;
  return isObject(value) ? (value as Positions) : null;
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

export function finite(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function numbers(value: unknown): number[] | null {
  return Array.isArray(value) && value.every((n) => finite(n) !== null) ? (value as number[]) : null;
}
