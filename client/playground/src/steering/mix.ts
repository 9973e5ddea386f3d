import type { Positions } from "../api/types";

/** How the coefficient of a use goes from token to token. */
export type Schedule =
  | { kind: "constant" }
  | { kind: "start" }
  | { kind: "diminishing"; over: number }
  | { kind: "list"; coefficients: number[]; hold: boolean };

export type OperationSetting = number | string | boolean;

/** The settings of each operation that has some. */
export const OPERATION_SETTINGS: Readonly<Record<string, readonly string[]>> = {
  clamp: ["min", "max", "unit"],
  feature: ["value", "multiply"],
  rotate: ["angle", "adaptive"],
};

/** What decides whether a use acts: what another vector measures in the stream. */
export interface Gate {
  readonly id: string;
  readonly layer: number;
  readonly measure: string;
  /** It passes where the measure is on this side of the threshold. */
  readonly side: "above" | "below";
  readonly threshold: number;
  readonly over: string;
}

/** One vector of a mix. Null means: as the vector says itself. */
export interface Use {
  /** For the page alone: which slider this is. */
  readonly key: number;
  readonly id: string;
  readonly coefficient: number;
  readonly layers: readonly number[] | null;
  readonly positions: Positions | null;
  readonly schedule: Schedule;
  readonly operation: string | null;
  /** Settings of the operation, by their names in the field. */
  readonly settings: Readonly<Record<string, OperationSetting>>;
  readonly gate: Gate | null;
  /** Keys of the field that this page has no control for; sent as they are. */
  readonly more: Readonly<Record<string, unknown>>;
}

/** A vector along which the stream is read. It changes nothing. Null: the layers of the vector. */
export interface Read {
  /** For the page alone: which row this is. */
  readonly key: number;
  readonly id: string;
  readonly layers: readonly number[] | null;
  readonly measure: string;
  readonly tokens: string;
}

/** Settings of dynamic composition. */
export interface Dynamic {
  readonly start: number;
  readonly max: number;
  readonly top_p: number;
  readonly kl: "mean" | "sum";
  readonly every: number;
}

/** How a column is steered. Without uses: not at all. */
export interface Mix {
  readonly uses: readonly Use[];
  readonly dynamic: Dynamic | null;
  readonly reads: readonly Read[];
  /** The preset that this mix is, as long as nothing was changed. */
  readonly preset: string | null;
  readonly more: Readonly<Record<string, unknown>>;
}

export const UNSTEERED: Mix = { uses: [], dynamic: null, reads: [], preset: null, more: {} };

/** The paper's plain divergence: on small models the mean steers next to nothing (docs/request.md). */
export const DYNAMIC: Dynamic = { start: 2, max: 2, top_p: 0.95, kl: "sum", every: 1 };

let keys = 0;

const OWN = {
  layers: null,
  positions: null,
  schedule: { kind: "constant" },
  operation: null,
  settings: {},
  gate: null,
  more: {},
} as const;

export function newUse(id: string, coefficient: number): Use {
  keys += 1;
  return { key: keys, id, coefficient, ...OWN };
}

export function newRead(id: string): Read {
  keys += 1;
  return { key: keys, id, layers: null, measure: "projection", tokens: "answer" };
}

/** How many uses of `mix` have a gate, or a marker in their positions. */
export function conditionsIn(mix: Mix): number {
  return mix.uses.filter((use) => use.gate !== null || (use.positions !== null && marks(use.positions))).length;
}

const marks = (positions: Positions): boolean => typeof positions !== "string" && ("after" in positions || "until" in positions);
