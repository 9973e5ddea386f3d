import { useState } from "preact/hooks";

import { patchVector, type VectorPatch } from "../api/library";
import { Problem } from "../api/problem";
import type { Vector } from "../api/types";
import { Field, NumberInput } from "../parts/fields";
import { ProblemNote } from "../parts/problem_note";
import { LayersInput } from "../sliders/details/layers_input";
import { loadVectors } from "../state/vectors";
import { words } from "../strings";

/** Changes what a vector says of itself. Sends only what has changed: other defaults make a new version. */
export function DefaultsForm({ vector, onDone }: { vector: Vector; onDone: () => void }) {
  const [description, setDescription] = useState(vector.description);
  const [coefficient, setCoefficient] = useState(vector.coefficient);
  const [layers, setLayers] = useState<readonly number[]>(vector.layers);
  const [safe, setSafe] = useState(vector.safe_range);
  const [problem, setProblem] = useState<Problem | null>(null);
  const submit = async (event: Event) => {
    event.preventDefault();
    const patch: VectorPatch = {};
    if (description !== vector.description) patch.description = description;
    if (coefficient !== vector.coefficient) patch.coefficient = coefficient;
    if (layers.join() !== vector.layers.join()) patch.layers = [...layers];
    if (safe && safe.join() !== vector.safe_range?.join()) patch.safe_range = safe;
    try {
      if (Object.keys(patch).length > 0) await patchVector(vector.id, patch);
      await loadVectors();
      onDone();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
    }
  };
  const setEnd = (end: 0 | 1, value: number) => {
    const next: [number, number] = [...(safe ?? [0, 0])];
    next[end] = value;
    setSafe(next);
  };
  return (
    <form class="stack card" onSubmit={(event) => void submit(event)}>
      <Field label={words.vectors.description}>
        {(id) => <textarea id={id} rows={2} value={description} onInput={(event) => setDescription(event.currentTarget.value)} />}
      </Field>
      <div class="pair">
        <Field label={words.vectors.coefficient}>
          {(id) => <NumberInput id={id} value={coefficient} onChange={setCoefficient} />}
        </Field>
        <LayersInput layers={layers} own={vector.layers} onChange={(next) => setLayers(next ?? vector.layers)} />
        <Field label={`${words.vectors.safeRange}: ${words.vectors.from}`}>
          {(id) => <NumberInput id={id} value={safe?.[0] ?? 0} onChange={(value) => setEnd(0, value)} />}
        </Field>
        <Field label={`${words.vectors.safeRange}: ${words.vectors.to}`}>
          {(id) => <NumberInput id={id} value={safe?.[1] ?? 0} onChange={(value) => setEnd(1, value)} />}
        </Field>
      </div>
      {problem && <ProblemNote problem={problem} />}
      <div class="row">
        <button type="submit" class="primary">
          {words.vectors.save}
        </button>
        <button type="button" onClick={onDone}>
          {words.cancel}
        </button>
      </div>
    </form>
  );
}
