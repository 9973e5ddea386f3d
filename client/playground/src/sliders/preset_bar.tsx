import { useState } from "preact/hooks";

import { createPreset, patchPreset } from "../api/library";
import { Problem } from "../api/problem";
import { Field } from "../parts/fields";
import { ProblemNote } from "../parts/problem_note";
import { setMix, type Column } from "../state/compare/columns";
import { capabilities, loadPresets, presets } from "../state/server";
import { ownCoefficient } from "../state/vectors";
import { mixOf, vectorsOf } from "../steering/field";
import { words } from "../strings";
import { DefaultDialog } from "./default_dialog";

/** Loads a preset into the column, saves the column as one, and shows how it becomes the default. */
export function PresetBar({ column }: { column: Column }) {
  const [saves, setSaves] = useState(false);
  const [asDefault, setAsDefault] = useState(false);
  const byDefault = capabilities.value?.default_preset?.preset;
  const load = (name: string) => {
    const preset = presets.value.find((one) => one.name === name);
    if (preset) setMix(column.id, mixOf(preset.steering, ownCoefficient, preset.name));
  };
  return (
    <div class="preset-bar">
      {presets.value.length > 0 && (
        <select
          aria-label={words.presets.title}
          value={column.mix.preset ?? ""}
          onChange={(event) => load(event.currentTarget.value)}
        >
          <option value="">{words.presets.load}</option>
          {presets.value.map((one) => (
            <option key={one.name} value={one.name} selected={one.name === column.mix.preset}>
              {one.name === byDefault ? `${one.name} (${words.presets.isDefault})` : one.name}
            </option>
          ))}
        </select>
      )}
      {column.mix.uses.length > 0 && !column.mix.preset && !saves && (
        <button type="button" class="quiet" onClick={() => setSaves(true)}>
          {words.presets.save}
        </button>
      )}
      {column.mix.preset && (
        <button type="button" class="quiet" onClick={() => setAsDefault(true)}>
          {words.presets.asDefault}
        </button>
      )}
      {asDefault && column.mix.preset && <DefaultDialog preset={column.mix.preset} onClose={() => setAsDefault(false)} />}
      {saves && <SavePreset column={column} onDone={() => setSaves(false)} />}
    </div>
  );
}

function SavePreset({ column, onDone }: { column: Column; onDone: () => void }) {
  const [name, setName] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  const exists = presets.value.some((one) => one.name === name.trim());
  const save = async (event: Event) => {
    event.preventDefault();
    const steering = vectorsOf(column.mix);
    try {
      const saved = await (exists ? patchPreset : createPreset)(name.trim(), steering);
      await loadPresets();
      // What is read is no part of a preset: a column that reads stays what it is.
      if (column.mix.reads.length === 0) setMix(column.id, { ...column.mix, preset: saved.name });
      onDone();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
    }
  };
  return (
    <form class="stack save-preset" onSubmit={(event) => void save(event)}>
      <Field label={words.presets.name} hint={exists ? words.presets.exists(name.trim()) : undefined}>
        {(id, describedBy) => (
          <input
            id={id}
            autocomplete="off"
            spellcheck={false}
            aria-describedby={describedBy}
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        )}
      </Field>
      {problem && <ProblemNote problem={problem} />}
      <div class="row">
        <button type="submit" class="primary" disabled={!name.trim()}>
          {exists ? words.presets.replace(name.trim()) : words.presets.save}
        </button>
        <button type="button" onClick={onDone}>
          {words.cancel}
        </button>
      </div>
    </form>
  );
}
