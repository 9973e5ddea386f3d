/**
 * The state of a comparison in a link: in the fragment, which browsers do not send. What was said, how the columns are
 * steered, and the sampling; no answer, and no key.
 */

import { isObject } from "../../api/problem";
import { fieldOf, mixOf } from "../../steering/field";
import { UNSTEERED, type Mix } from "../../steering/mix";
import { finite } from "../../steering/numbers";
import { MOST_COLUMNS, columns, newColumn, selectedId, setColumns } from "./columns";
import { draft, sampling, setSaid, turns } from "./conversation";
import { ownCoefficient } from "../vectors";

const MARK = "state=";
const LONGEST = 200_000;

export function linkToState(): string {
  const state = {
    v: 1,
    said: turns.value.map((turn) => turn.said),
    draft: draft.value,
    columns: columns.value.map(({ mix }) => ({ preset: mix.preset ?? undefined, steering: fieldOf(mix) })),
    selected: columns.value.findIndex((one) => one.id === selectedId.value),
    sampling: sampling.value,
  };
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  const url = new URL(location.href);
  url.hash = MARK + text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return url.href;
}

/** Take the state that the page's address has, if it has one. Whoever made the link may have written anything in it. */
export function readLink(): boolean {
  const at = location.hash.indexOf(MARK);
  if (at < 0 || location.hash.length > LONGEST) return false;
  const state = decoded(location.hash.slice(at + MARK.length));
  if (!state) return false;
  const said = Array.isArray(state.said) ? state.said.filter((one) => typeof one === "string") : [];
  const mixes = (Array.isArray(state.columns) ? state.columns : []).filter(isObject).slice(0, MOST_COLUMNS).map(readMix);
  if (mixes.length > 0) {
    const select = finite(state.selected) ?? -1;
    setColumns(mixes.map(newColumn), select in mixes ? select : mixes.length - 1);
  }
  setSaid(said);
  draft.value = typeof state.draft === "string" ? state.draft : "";
  const given = isObject(state.sampling) ? state.sampling : {};
  const { seed, temperature, max_tokens } = sampling.value;
  sampling.value = {
    seed: finite(given.seed) ?? seed,
    temperature: finite(given.temperature) ?? temperature,
    max_tokens: finite(given.max_tokens) ?? max_tokens,
  };
  history.replaceState(null, "", location.pathname);
  return true;
}

function readMix(column: Record<string, unknown>): Mix {
  const preset = typeof column.preset === "string" ? column.preset : null;
  return isObject(column.steering) ? mixOf(column.steering, ownCoefficient, preset) : { ...UNSTEERED, preset };
}

function decoded(text: string): Record<string, unknown> | null {
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
    const state: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return isObject(state) && state.v === 1 ? state : null;
  } catch {
    return null;
  }
}
