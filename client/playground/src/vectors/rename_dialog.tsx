import { useState } from "preact/hooks";

import { deleteVector, patchVector, uploadVector, vectorContent } from "../api/library";
import { Problem } from "../api/problem";
import type { Vector } from "../api/types";
import { Dialog } from "../parts/dialog";
import { Field } from "../parts/fields";
import { ProblemNote } from "../parts/problem_note";
import { loadVectors } from "../state/vectors";
import { words } from "../strings";
import { Dependents } from "./dependents";

interface Props {
  vector: Vector;
  onClose: () => void;
  onRenamed: (id: string) => void;
}

/** Gives a vector another name: a copy under the new name, then the old name goes. */
export function RenameDialog({ vector, onClose, onRenamed }: Props) {
  const [name, setName] = useState(vector.id);
  const [problem, setProblem] = useState<Problem | null>(null);
  const submit = async (event: Event) => {
    event.preventDefault();
    try {
      await renameVector(vector, name.trim());
      await loadVectors();
      onRenamed(name.trim());
      onClose();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
    }
  };
  return (
    <Dialog title={`${words.vectors.rename}: ${vector.id}`} onClose={onClose}>
      <form class="stack" onSubmit={(event) => void submit(event)}>
        <Field label={words.vectors.newName} hint={words.vectors.renameHint}>
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
        <Dependents vector={vector.id} />
        {problem && <ProblemNote problem={problem} />}
        <div class="row">
          <button type="submit" class="primary" disabled={!name.trim() || name.trim() === vector.id}>
            {words.vectors.rename}
          </button>
          <button type="button" onClick={onClose}>
            {words.cancel}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

async function renameVector(vector: Vector, name: string): Promise<void> {
  const made = await uploadVector(await vectorContent(vector.id), `${name}.safetensors`, name);
  try {
    // These two are the name's own, and not in the file where they were changed later.
    await patchVector(name, {
      description: vector.description,
      ...(vector.safe_range ? { safe_range: vector.safe_range } : {}),
    });
    await deleteVector(vector.id, false);
  } catch (error) {
    // Nothing is left half renamed: a preset may name the old one.
    await deleteVector(made.id, false);
    throw error;
  }
}
