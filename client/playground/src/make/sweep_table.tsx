import { useState } from "preact/hooks";

import { patchVector } from "../api/library";
import { Problem } from "../api/problem";
import { ProblemNote } from "../parts/problem_note";
import { loadVectors } from "../state/vectors";
import { shown, words } from "../strings";
import { isFluent, safeRange, type Cell, type SweepRun } from "./sweep_state";

/** The cells of a sweep in numbers, its answers, and the range that came out. */
export function SweepTable({ run }: { run: SweepRun }) {
  const w = words.sweep;
  const unsteered = run.cells.find((one) => one.coefficient === 0);
  return (
    <>
      <div class="receipt-scroll" tabIndex={0} role="region" aria-label={w.figure}>
        <table>
          <thead>
            <tr>
              {[w.coefficient, w.found, w.perplexity, w.repeated, w.fluent].map((name) => (
                <th key={name} scope="col" class="num">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {run.cells.map((cell) => (
              <Row key={cell.coefficient} cell={cell} unsteered={unsteered} />
            ))}
          </tbody>
        </table>
      </div>
      <details>
        <summary>{w.answers}</summary>
        <dl class="sweep-answers">
          {run.cells.map((cell) => (
            <div key={cell.coefficient}>
              <dt>{shown(cell.coefficient)}</dt>
              {cell.refused && <dd class="problem">{cell.refused}</dd>}
              {cell.texts.map((text, n) => (
                <dd key={n}>{text}</dd>
              ))}
            </div>
          ))}
        </dl>
      </details>
      {!run.running && <Range run={run} />}
    </>
  );
}

function Row({ cell, unsteered }: { cell: Cell; unsteered: Cell | undefined }) {
  const w = words.sweep;
  if (cell.refused !== null) {
    return (
      <tr>
        <td class="num">{shown(cell.coefficient)}</td>
        <td class="num" colSpan={4}>
          {w.refused}
        </td>
      </tr>
    );
  }
  return (
    <tr>
      <td class="num">{shown(cell.coefficient)}</td>
      <td class="num">{shown(cell.found)}</td>
      <td class="num">{shown(cell.perplexity)}</td>
      <td class="num">{shown(cell.repeated)}</td>
      <td class="num">{unsteered && isFluent(cell, unsteered) ? w.yes : w.no}</td>
    </tr>
  );
}

function Range({ run }: { run: SweepRun }) {
  const [saved, setSaved] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const range = safeRange(run.cells);
  const save = async () => {
    try {
      await patchVector(run.vector, { safe_range: range });
      await loadVectors();
      setSaved(true);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
    }
  };
  return (
    <>
      <p class="field-hint">{words.sweep.rule}</p>
      <div class="row">
        <p>{range ? words.sweep.safe(...range) : words.sweep.noSafe}</p>
        {range && !saved && (
          <button type="button" onClick={() => void save()}>
            {words.sweep.save}
          </button>
        )}
        {saved && <p role="status">{words.sweep.saved}</p>}
      </div>
      {problem && <ProblemNote problem={problem} />}
    </>
  );
}
