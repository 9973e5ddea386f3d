import { useId, useState } from "preact/hooks";

import { Field, NumberInput } from "../parts/fields";
import { ProblemNote } from "../parts/problem_note";
import { usable, vectorOf } from "../state/vectors";
import { words } from "../strings";
import { SweepFigure } from "./sweep_figure";
import { SweepTable } from "./sweep_table";
import { readCoefficients, runSweep, stopSweep, sweepRun, sweepVector } from "./sweep_state";

const PROMPTS = [
  "Describe a railway station in the early evening.",
  "Tell me about your neighbourhood.",
  "Write a few sentences about a letter that arrived today.",
  "What do people do on a Sunday afternoon?",
];
const WORDS = "happy, wonderful, beautiful, love, lovely, joy, great, delicious, smile, sunshine, fun, warm, best, amazing, excited";

/** Which coefficient: answers at each, scored. */
export function SweepForm() {
  const [coefficients, setCoefficients] = useState("-3:3:1");
  const [wanted, setWanted] = useState(WORDS);
  const [prompts, setPrompts] = useState(PROMPTS.join("\n"));
  const [maxTokens, setMaxTokens] = useState(32);
  const names = useId();
  const read = readCoefficients(coefficients);
  const lines = prompts.split("\n").map((line) => line.trim()).filter(Boolean);
  const run = sweepRun.value;
  const vector = sweepVector.value.trim();
  const ready = read !== null && lines.length > 0 && vectorOf(vector) !== undefined;
  const submit = (event: Event) => {
    event.preventDefault();
    if (!ready) return;
    const list = wanted.split(",").map((word) => word.trim()).filter(Boolean);
    void runSweep({ vector, coefficients: read, prompts: lines, words: list, maxTokens });
  };
  const w = words.sweep;
  return (
    <section class="sweep" aria-label={w.title}>
      <h2>{w.title}</h2>
      <p class="make-why">{w.why}</p>
      <form class="stack" onSubmit={submit}>
        <div class="pair">
          <Field label={w.vector}>
            {(id) => (
              <input id={id} list={names} autocomplete="off" spellcheck={false} value={sweepVector.value} onInput={(event) => (sweepVector.value = event.currentTarget.value)} />
            )}
          </Field>
          <datalist id={names}>
            {usable.value.map((one) => (
              <option key={one.id} value={one.id} />
            ))}
          </datalist>
          <Field label={w.coefficients} hint={w.coefficientsHint} error={read ? null : w.coefficientsWrong}>
            {(id, describedBy) => (
              <input id={id} aria-describedby={describedBy} aria-invalid={read === null} value={coefficients} onInput={(event) => setCoefficients(event.currentTarget.value)} />
            )}
          </Field>
        </div>
        <Field label={w.words} hint={w.wordsHint}>
          {(id, describedBy) => <input id={id} aria-describedby={describedBy} value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} />}
        </Field>
        <Field label={w.prompts} hint={w.promptsHint}>
          {(id, describedBy) => (
            <textarea id={id} rows={4} aria-describedby={describedBy} value={prompts} onInput={(event) => setPrompts(event.currentTarget.value)} />
          )}
        </Field>
        <div class="row">
          <Field label={w.tokens}>
            {(id) => <NumberInput id={id} value={maxTokens} min={1} step={1} onChange={(value) => setMaxTokens(Math.round(value))} />}
          </Field>
          {run?.running ? (
            <button type="button" class="primary" onClick={stopSweep}>
              {w.stop}
            </button>
          ) : (
            <button type="submit" class="primary" disabled={!ready}>
              {w.run}
            </button>
          )}
          {read && <p class="field-hint">{w.cost(new Set([0, ...read]).size * lines.length)}</p>}
        </div>
      </form>
      {run && (
        <div class="stack">
          {run.running && <progress max={run.all} value={run.done} aria-label={w.title} />}
          <p class="field-hint" role="status">
            {w.progress(run.done, run.all)}
          </p>
          {run.problem && <ProblemNote problem={run.problem} />}
          {run.cells.length > 1 && <SweepFigure cells={run.cells} />}
          {run.cells.length > 0 && <SweepTable run={run} />}
        </div>
      )}
    </section>
  );
}
