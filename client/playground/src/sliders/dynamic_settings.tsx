import { Field, NumberInput, Select } from "../parts/fields";
import { changeMix, type Column } from "../state/compare/columns";
import { capabilities } from "../state/server";
import { DYNAMIC, type Dynamic } from "../steering/mix";
import { words } from "../strings";

/** Dynamic composition on or off, and its settings. Rendered only where the server offers it. */
export function DynamicSettings({ column }: { column: Column }) {
  const { dynamic, uses } = column.mix;
  const served = capabilities.value!.dynamic!;
  const set = (next: Dynamic | null) => changeMix(column.id, (mix) => ({ ...mix, dynamic: next }));
  const tooMany = uses.length > served.max_vectors;
  return (
    <fieldset class="dynamic">
      <legend class="unseen">{words.sliders.dynamic}</legend>
      <label class="check">
        <input
          type="checkbox"
          checked={dynamic !== null}
          disabled={tooMany && dynamic === null}
          onChange={(event) => set(event.currentTarget.checked ? DYNAMIC : null)}
        />
        {words.sliders.dynamic}
      </label>
      <p class="field-hint">{tooMany ? words.sliders.dynamicMost(served.max_vectors) : words.sliders.dynamicHint}</p>
      {dynamic && <Settings dynamic={dynamic} kinds={served.kl} set={set} />}
    </fieldset>
  );
}

function Settings({ dynamic, kinds, set }: { dynamic: Dynamic; kinds: string[]; set: (next: Dynamic) => void }) {
  return (
    <div class="pair">
      <Field label={words.sliders.start} hint={words.sliders.startHint}>
        {(id, note) => <NumberInput id={id} describedBy={note} value={dynamic.start} min={0} step={0.1} onChange={(start) => set({ ...dynamic, start })} />}
      </Field>
      <Field label={words.sliders.topP} hint={words.sliders.topPHint}>
        {(id, note) => <NumberInput id={id} describedBy={note} value={dynamic.top_p} min={0.01} max={1} step={0.01} onChange={(top_p) => set({ ...dynamic, top_p })} />}
      </Field>
      <Field label={words.sliders.kl} hint={words.sliders.klHint}>
        {(id) => (
          <Select
            id={id}
            value={dynamic.kl}
            options={kinds.map((kind) => [kind, words.sliders.klNames[kind] ?? kind] as const)}
            onChange={(kl) => set({ ...dynamic, kl: kl === "sum" ? "sum" : "mean" })}
          />
        )}
      </Field>
      <Field label={words.sliders.every} hint={words.sliders.everyHint}>
        {(id, note) => <NumberInput id={id} describedBy={note} value={dynamic.every} min={1} max={64} step={1} onChange={(every) => set({ ...dynamic, every })} />}
      </Field>
    </div>
  );
}
