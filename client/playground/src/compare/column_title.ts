import { columns, type Column } from "../state/compare/columns";
import { boundTo } from "../state/server";
import { vectorOf } from "../state/vectors";
import type { Use } from "../steering/mix";
import { shown, words } from "../strings";

/** What a column is called: how it is steered, in short; the same twice gets a number. */
export function titleOf(column: Column): string {
  const title = shortTitle(column);
  const same = columns.value.filter((one) => shortTitle(one) === title);
  return same.length > 1 ? `${title} (${same.indexOf(column) + 1})` : title;
}

function shortTitle({ mix }: Column): string {
  if (boundTo.value !== null) return words.presets.loaded(boundTo.value);
  if (mix.preset) return words.presets.loaded(mix.preset);
  if (mix.uses.length === 0) return words.compare.unsteered;
  const names = mix.uses.map((use) => (mix.dynamic ? use.id : useTitle(use)));
  return (mix.dynamic ? `${words.sliders.dynamic}: ` : "") + names.join(" · ");
}

function useTitle(use: Use): string {
  const operation = use.operation ?? vectorOf(use.id)?.operation ?? "add";
  const name = `${use.id} ${shown(use.coefficient)}`;
  return operation === "add" ? name : `${words.operations.names[operation] ?? operation}: ${name}`;
}
