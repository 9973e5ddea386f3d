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
  /** Keys of the field that this page has no control for; sent as they are. */
  readonly more: Readonly<Record<string, unknown>>;
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
  /** The preset that this mix is, as long as nothing was changed. */
  readonly preset: string | null;
  readonly more: Readonly<Record<string, unknown>>;
}

export const UNSTEERED: Mix = { uses: [], dynamic: null, preset: null, more: {} };

/** The paper's plain divergence: on small models the mean steers next to nothing (docs/request.md). */
export const DYNAMIC: Dynamic = { start: 2, max: 2, top_p: 0.95, kl: "sum", every: 1 };

let keys = 0;

export function newUse(id: string, coefficient: number): Use {
  keys += 1;
  const own = { layers: null, positions: null, schedule: { kind: "constant" }, operation: null, settings: {}, more: {} } as const;
  return { key: keys, id, coefficient, ...own };
}
