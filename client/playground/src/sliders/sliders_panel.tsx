import { boundTo, capabilities } from "../state/server";
import { changeMix, selected, type Column } from "../state/compare/columns";
import { titleOf } from "../compare/column_title";
import { words } from "../strings";
import { AddVector } from "./names/add_vector";
import { DynamicSettings } from "./dynamic_settings";
import { PresetBar } from "./preset_bar";
import { ReadsPanel } from "./reads/reads_panel";
import { TotalDose } from "./total_dose";
import { VectorNames } from "./names/vector_names";
import { UseSlider } from "./use_slider";

const KEEP_NORM = "keep_norm";

/** How the selected column is steered: a slider a vector, the sum of their doses, and what is for all of them. */
export function SlidersPanel() {
  const column = selected.value;
  return (
    <section class="sliders" aria-label={words.sliders.title(titleOf(column))}>
      <div>
        <p class="sliders-of">{words.sliders.of}</p>
        <h2 class="sliders-title">{titleOf(column)}</h2>
      </div>
      {boundTo.value === null ? <Controls column={column} /> : <p class="locked">{words.presets.locked(boundTo.value)}</p>}
    </section>
  );
}

/** Not for a key that is bound to a preset: what they say would be refused. */
function Controls({ column }: { column: Column }) {
  return (
    <>
      <PresetBar column={column} />
      <Uses column={column} />
      <AddVector column={column} />
      {capabilities.value?.dynamic && column.mix.uses.length > 0 && <DynamicSettings column={column} />}
      <ReadsPanel column={column} />
      <VectorNames />
    </>
  );
}

function Uses({ column }: { column: Column }) {
  const { uses, preset, reads, more } = column.mix;
  const other = uses.length > 0 ? Object.keys(more).filter((name) => name !== KEEP_NORM) : [];
  // A link may bring what this server does not serve, and no control shows.
  if (reads.length > 0 && !capabilities.value?.reads) other.push("read");
  return (
    <>
      {uses.length === 0 && !preset && <p class="sliders-none">{words.sliders.none}</p>}
      <ul class="uses">
        {uses.map((use, n) => (
          <UseSlider key={use.key} column={column} use={use} series={n} />
        ))}
      </ul>
      {other.length > 0 && <p class="field-hint">{words.sliders.other(other.join(", "))}</p>}
      {uses.length > 0 && <TotalDose mix={column.mix} />}
      {uses.length > 0 && <p class="field-hint">{words.sliders.totalHint}</p>}
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
    <div>
      <label class="check">
        <input type="checkbox" checked={column.mix.more[KEEP_NORM] === true} onChange={(event) => set(event.currentTarget.checked)} />
        {words.operations.keepNorm}
      </label>
      <p class="field-hint">{words.operations.keepNormHint}</p>
    </div>
  );
}
