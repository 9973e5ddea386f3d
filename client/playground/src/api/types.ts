/** What the server sends and takes, as far as the page uses it. docs/rest.md and docs/request.md say it all. */

export type Positions =
  | "generation"
  | "after_prompt"
  | "prompt"
  | "all"
  | { start: number; stop: number }
  | { start?: number; stop?: number; of: "answer" }
  | { after: Marker }
  | { until: Marker };

/** One token of the model as text, or token ids that follow each other. */
export type Marker = string | number[];

export interface TensorInfo {
  name: string;
  site: string;
  layer: number;
  shape: number[];
}

export interface Vector {
  id: string;
  digest: string;
  created_at: number;
  updated_at: number;
  description: string;
  method: string | null;
  base_model: { id: string | null } | null;
  base_model_matches: boolean | null;
  fits: boolean;
  misfit: string | null;
  hidden_size: number;
  coefficient: number;
  layers: number[];
  positions: Positions;
  safe_range: [number, number] | null;
  licence: string | null;
  tensors: TensorInfo[];
  bytes: number;
  versions: string[];
  /** What it does to the stream by default; servers that only add do not say. */
  operation?: string;
}

/** A vector with the fields that lists leave out. */
export interface WholeVector extends Vector {
  method_settings: Record<string, unknown>;
  /** Length of each tensor by `<site>.<layer>`, as far as the file says. */
  norms: Record<string, number>;
}

export interface Capabilities {
  version: string;
  model: string;
  num_layers: number;
  hidden_size: number;
  fingerprint: string | null;
  sites: string[];
  aliases: string[];
  /** What vectors may do to the stream here; servers that only add do not say. */
  operations?: string[];
  positions: string[] | null;
  schedules: string[] | null;
  /** Null, or not there: no use may have a gate. */
  gates?: { measures: string[]; over: string[]; max_gates: number } | null;
  /** Null, or not there: nothing can be read. */
  reads?: { sites: string[]; measures: string[]; tokens: string[] } | null;
  dynamic: { max_vectors: number; kl: string[] } | null;
  enforce_safe_range: boolean;
  require_fingerprint: boolean;
  /** Median length of the residual stream by `<site>.<layer>`. */
  median_norms: Record<string, number> | null;
  limits: Record<string, number | null>;
  /** What steers requests that do not say how. */
  default_preset?: { preset: string; source: string; locked: boolean } | null;
}

export interface Preset {
  name: string;
  digest: string;
  steering: Record<string, unknown>;
  follow: boolean;
  pins: string[];
  description: string;
}

export interface VectorReceipt {
  id: string;
  digest: string;
  site: string | string[];
  layers: number[];
  coefficient: number;
  positions: Positions;
  schedule?: string | number[];
  relative_dose: Record<string, number> | null;
  total_dose?: number | null;
  outside_safe_range?: boolean | null;
  base_model_matches?: boolean | null;
  steered_tokens?: number;
  gate?: GateReceipt;
}

export interface GateReceipt {
  id: string;
  over: string;
  tokens: number;
  passed_tokens: number;
  /** Of a gate that is decided once; null where the answer ended before. */
  passed?: boolean | null;
  value?: number | null;
}

/** What was read along one vector: a list of values for each layer. */
export interface ReadPart {
  id: string;
  measure: string;
  tokens: string;
  values: Record<string, number[]>;
}

export interface Part {
  coefficients: number[];
  divergences: number[];
  mean_coefficient?: number;
  note?: string;
}

export interface Receipt {
  vectors: VectorReceipt[];
  dynamic: Record<string, Part> | null;
  reads?: ReadPart[];
  source?: string;
  preset?: string | null;
  note?: string;
  steps_per_token?: number | null;
}

export interface Message {
  role: "user" | "assistant" | "system";
  content: string;
}

export interface ChatBody {
  model: string;
  messages: Message[];
  seed?: number;
  temperature?: number;
  max_tokens?: number;
  /** Null: not at all, where the server has a default preset. */
  steering?: Record<string, unknown> | null;
}

export interface TokenEffect {
  id: number;
  text: string;
  logit: number;
}

export interface TensorInspection {
  name: string;
  site: string;
  layer: number;
  default: boolean;
  norm: number;
  relative_norm: number | null;
  top_tokens: TokenEffect[];
  bottom_tokens: TokenEffect[];
  similar: { id: string; cosine: number }[];
}

export interface Inspection {
  recommended: Record<string, unknown> | null;
  not_recommended: string | null;
  tensors: TensorInspection[];
}

export interface Job {
  id: string;
  status: "queued" | "running" | "cancelling" | "succeeded" | "failed" | "cancelled";
  phase: string;
  method: string;
  name: string;
  created_at: number;
  progress: { done: number; total: number; rate: number | null; eta_s: number | null };
  bad_rows: { row: number; label: string; reason: string }[];
  /** Of some texts, what stands before the token that is read, and the token. */
  samples: { row: number; label: string; token: string; before: string }[];
  warnings: { code: string; message: string }[];
  vectors: string[];
  error: { message?: string } | null;
}
