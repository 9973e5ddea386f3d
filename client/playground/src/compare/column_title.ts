import { columns, type Column } from "../state/compare/columns";
import { shown, words } from "../strings";

/** What a column is called: how it is steered, in short; the same twice gets a number. */
export function titleOf(column: Column): string {
  const title = shortTitle(column);
  const same = columns.value.filter((one) => shortTitle(one) === title);
  return same.length > 1 ? `${title} (${same.indexOf(column) + 1})` : title;
}

function shortTitle({ mix }: Column): string {
  if (mix.preset) return words.presets.loaded(mix.preset);
  if (mix.uses.length === 0) return words.compare.unsteered;
  const names = mix.uses.map((use) => (mix.dynamic ? use.id : `${use.id} ${shown(use.coefficient)}`));
  return (mix.dynamic ? `${words.sliders.dynamic}: ` : "") + names.join(" · ");
}
