import { useState } from "preact/hooks";

import { deleteVector } from "../api/library";
import { Problem } from "../api/problem";
import type { Vector } from "../api/types";
import { Dialog } from "../parts/dialog";
import { ProblemNote } from "../parts/problem_note";
import { loadPresets } from "../state/server";
import { loadVectors } from "../state/vectors";
import { words } from "../strings";
import { Dependents, dependentsOf } from "./dependents";

interface Props {
  vector: Vector;
  onClose: () => void;
  onDeleted: () => void;
}

/** Asks before a vector goes, and says what goes with it. */
export function DeleteDialog({ vector, onClose, onDeleted }: Props) {
  const [problem, setProblem] = useState<Problem | null>(null);
  const forced = dependentsOf(vector.id).length > 0 || problem?.status === 409;
  const remove = async () => {
    try {
      await deleteVector(vector.id, forced);
      onClose();
      onDeleted();
      await Promise.all([loadVectors(), loadPresets()]);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
    }
  };
  return (
    <Dialog title={words.vectors.removeTitle(vector.id)} onClose={onClose}>
      <p>{words.vectors.removeWhy}</p>
      <Dependents vector={vector.id} />
      {problem && <ProblemNote problem={problem} />}
      <div class="row">
        <button type="button" class="danger" onClick={() => void remove()}>
          {forced ? words.vectors.removeAll : words.vectors.remove}
        </button>
        <button type="button" onClick={onClose}>
          {words.cancel}
        </button>
      </div>
    </Dialog>
  );
}
