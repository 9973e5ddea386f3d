import { capabilities } from "../state/server";
import { changeMix, selected, type Column } from "../state/compare/columns";
import { titleOf } from "../compare/column_title";
import { words } from "../strings";
import { AddVector } from "./add_vector";
import { DynamicSettings } from "./dynamic_settings";
import { PresetBar } from "./preset_bar";
import { TotalDose } from "./total_dose";
import { UseSlider } from "./use_slider";

const KEEP_NORM = "keep_norm";

/** How the selected column is steered: a slider a vector, the sum of their doses, and what is for all of them. */
export function SlidersPanel() {
  const column = selected.value;
  return (
    <section class="sliders" aria-label={words.sliders.title(titleOf(column))}>
      <h2 class="sliders-title">{titleOf(column)}</h2>
      <Locked />
      <PresetBar column={column} />
      <Uses column={column} />
      <AddVector column={column} />
      {capabilities.value?.dynamic && column.mix.uses.length > 0 && <DynamicSettings column={column} />}
    </section>
  );
}

/** A key may be bound to a preset: what the sliders say would be refused. */
function Locked() {
  const given = capabilities.value?.default_preset;
  return given?.locked ? <p class="locked">{words.presets.locked(given.preset)}</p> : null;
}

function Uses({ column }: { column: Column }) {
  const { uses, preset, more } = column.mix;
  if (uses.length === 0 && !preset) return <p class="sliders-none">{words.sliders.none}</p>;
  const other = Object.keys(more).filter((name) => name !== KEEP_NORM);
  return (
    <>
      <ul class="uses">
        {uses.map((use, n) => (
          <UseSlider key={use.key} column={column} use={use} series={n} />
        ))}
      </ul>
      {other.length > 0 && <p class="field-hint">{words.sliders.other(other.join(", "))}</p>}
      {uses.length > 0 && <TotalDose mix={column.mix} />}
      {uses.length > 0 && !column.mix.dynamic && <KeepNorm column={column} />}
    </>
  );
}

/** Rendered where operations are served, since it came with them. */
function KeepNorm({ column }: { column: Column }) {
  if ((capabilities.value?.operations ?? []).length < 2) return null;
  const set = (on: boolean) =>
    changeMix(column.id, (mix) => {
      const { [KEEP_NORM]: _, ...more } = mix.more;
      return { ...mix, more: on ? { ...more, [KEEP_NORM]: true } : more };
    });
  return (
    <label class="check">
      <input type="checkbox" checked={column.mix.more[KEEP_NORM] === true} onChange={(event) => set(event.currentTarget.checked)} />
      {words.operations.keepNorm}
    </label>
  );
}
