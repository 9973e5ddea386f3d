import { useState } from "preact/hooks";

import { extract } from "../api/jobs";
import { Problem } from "../api/problem";
import { Field, Select } from "../parts/fields";
import { ProblemNote } from "../parts/problem_note";
import { watchJobs } from "../state/jobs";
import { capabilities } from "../state/server";
import { words } from "../strings";
import { NEGATIVE, POSITIVE } from "./example_texts";

const METHODS = ["mean_difference", "repe", "probe", "caa", "style", "per_step", "act_linear", "act_mean", "cast_condition", "directional_ablation"];
const TOKENS = ["", "mean", "last", "answer", "steps", "prompt", "template"];
const FEW = 20;

const linesOf = (text: string): string[] => text.split("\n").map((line) => line.trim()).filter(Boolean);

/** What a vector is made of: a name, a method, and texts of both sides. */
export function ExtractForm() {
  const [name, setName] = useState("");
  const [method, setMethod] = useState("mean_difference");
  const [positive, setPositive] = useState("");
  const [negative, setNegative] = useState("");
  const [file, setFile] = useState<File | null>(null);
  const [fromFile, setFromFile] = useState(false);
  const [prompt, setPrompt] = useState("");
  const [tokens, setTokens] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  const w = words.make;
  const sides = [linesOf(positive), linesOf(negative)] as const;
  const usesFile = fromFile || method === "style";
  const ready = name.trim() !== "" && (usesFile ? file !== null : sides.every((side) => side.length > 0));
  const submit = async (event: Event) => {
    event.preventDefault();
    setProblem(null);
    const request = {
      name: name.trim(),
      method,
      ...(prompt.trim() ? { prompt: prompt.trim() } : {}),
      ...(tokens ? { tokens } : {}),
      ...(usesFile ? {} : { positive: sides[0], negative: sides[1] }),
    };
    try {
      await extract(request, usesFile ? file : null);
      setName("");
      await watchJobs();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
    }
  };
  const example = () => {
    setPositive(POSITIVE.join("\n"));
    setNegative(NEGATIVE.join("\n"));
    if (!name) setName("glad");
  };
  return (
    <form class="extract" aria-labelledby="extract-title" onSubmit={(event) => void submit(event)}>
      <h2 id="extract-title">{w.title}</h2>
      <p class="make-why">{w.why}</p>
      <div class="pair">
        <Field label={w.name}>
          {(id) => <input id={id} autocomplete="off" spellcheck={false} value={name} onInput={(event) => setName(event.currentTarget.value)} />}
        </Field>
        <Field label={w.method} hint={w.methodHints[method]}>
          {(id) => <Select id={id} value={method} options={methodsHere()} onChange={setMethod} />}
        </Field>
      </div>
      {method !== "style" && (
        <div class="row">
          <label class="check">
            <input type="radio" name="source" checked={!fromFile} onChange={() => setFromFile(false)} />
            {w.typed}
          </label>
          <label class="check">
            <input type="radio" name="source" checked={fromFile} onChange={() => setFromFile(true)} />
            {w.file}
          </label>
          {!fromFile && (
            <button type="button" class="quiet" onClick={example}>
              {w.example}
            </button>
          )}
        </div>
      )}
      {usesFile ? (
        <Field label={w.fileLabel} hint={w.fileHint}>
          {(id, describedBy) => (
            <input
              id={id}
              type="file"
              accept=".jsonl,.ndjson"
              aria-describedby={describedBy}
              onChange={(event) => setFile(event.currentTarget.files?.[0] ?? null)}
            />
          )}
        </Field>
      ) : (
        <div class="pair texts">
          <Texts label={w.positive} value={positive} lines={sides[0].length} onChange={setPositive} />
          <Texts label={w.negative} value={negative} lines={sides[1].length} onChange={setNegative} />
        </div>
      )}
      {!usesFile && Math.min(sides[0].length, sides[1].length) < FEW && <p class="field-hint">{w.few}</p>}
      <div class="pair">
        <Field label={w.prompt} hint={w.promptHint}>
          {(id, describedBy) => (
            <input id={id} aria-describedby={describedBy} value={prompt} onInput={(event) => setPrompt(event.currentTarget.value)} />
          )}
        </Field>
        <Field label={w.tokens} hint={w.tokensHint}>
          {(id, note) => (
            <Select id={id} describedBy={note} value={tokens} options={TOKENS.map((rule) => [rule, w.tokenNames[rule]!] as const)} onChange={setTokens} />
          )}
        </Field>
      </div>
      {problem && <ProblemNote problem={problem} />}
      <div class="row">
        <button type="submit" class="primary" disabled={!ready}>
          {w.submit}
        </button>
      </div>
    </form>
  );
}

/** `per_step` needs a site that not every model has, transport an operation and a condition gates that not every server has. */
function methodsHere(): (readonly [string, string])[] {
  const sites = capabilities.value?.sites ?? [];
  const operations = capabilities.value?.operations ?? [];
  const missing = new Set([
    ...(sites.includes("attn_out") ? [] : ["per_step"]),
    ...(operations.includes("transport") ? [] : ["act_linear", "act_mean"]),
    ...(operations.includes("project") ? [] : ["directional_ablation"]),
    ...(capabilities.value?.gates ? [] : ["cast_condition"]),
  ]);
  const here = METHODS.filter((method) => !missing.has(method));
  return here.map((method) => [method, words.make.methodNames[method]!] as const);
}

function Texts({ label, value, lines, onChange }: { label: string; value: string; lines: number; onChange: (text: string) => void }) {
  return (
    <Field label={label} hint={words.make.textHint(lines)}>
      {(id, describedBy) => (
        <textarea id={id} rows={10} aria-describedby={describedBy} value={value} onInput={(event) => onChange(event.currentTarget.value)} />
      )}
    </Field>
  );
}
