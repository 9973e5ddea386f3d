import { useEffect, useState } from "preact/hooks";

import { inspectVector } from "../api/library";
import { Problem } from "../api/problem";
import type { Inspection, TensorInspection, TokenEffect } from "../api/types";
import { Field, Select } from "../parts/fields";
import { ProblemNote } from "../parts/problem_note";
import { shown, words } from "../strings";
import { NormBars } from "./norm_bars";

/** What can be learned about a vector without generating text. */
export function InspectionView({ id }: { id: string }) {
  const [found, setFound] = useState<Inspection | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    let wanted = true;
    inspectVector(id)
      .then((inspection) => wanted && setFound(inspection))
      .catch((error: unknown) => {
        if (!(error instanceof Problem)) throw error;
        if (wanted) setProblem(error);
      });
    return () => {
      wanted = false;
    };
  }, [id]);
  if (problem) return <ProblemNote problem={problem} />;
  if (!found) return <p class="field-hint">{words.vectors.inspecting}</p>;
  return (
    <section class="inside" aria-label={words.vectors.inspect}>
      <NormBars tensors={found.tensors} />
      <Tensor tensors={found.tensors} />
      <Quality inspection={found} />
    </section>
  );
}

function Tensor({ tensors }: { tensors: TensorInspection[] }) {
  const first = Math.max(0, tensors.findIndex((one) => one.default));
  const [chosen, setChosen] = useState(first);
  const tensor = tensors[chosen];
  if (!tensor) return null;
  const severalSites = new Set(tensors.map((one) => one.site)).size > 1;
  return (
    <>
      <div class="inside-layer">
        <Field label={words.vectors.atLayer}>
          {(id) => (
            <Select
              id={id}
              value={String(chosen)}
              options={tensors.map((one, n) => [String(n), severalSites ? one.name : String(one.layer)] as const)}
              onChange={(value) => setChosen(Number(value))}
            />
          )}
        </Field>
      </div>
      <div class="inside-columns">
        <section>
          <h3>{words.vectors.tokens}</h3>
          <p class="field-hint">{words.vectors.tokensHint}</p>
          <div class="pair">
            <Tokens name={words.vectors.raised} tokens={tensor.top_tokens} />
            <Tokens name={words.vectors.lowered} tokens={tensor.bottom_tokens} />
          </div>
        </section>
        <section>
          <h3>{words.vectors.neighbours}</h3>
          <p class="field-hint">{tensor.similar.length > 0 ? words.vectors.neighboursHint : words.vectors.noNeighbours}</p>
          <ul class="plain-list">
            {tensor.similar.map((one) => (
              <li key={one.id}>
                <span>{one.id}</span>
                <span class="num">{shown(one.cosine)}</span>
              </li>
            ))}
          </ul>
        </section>
      </div>
    </>
  );
}

function Tokens({ name, tokens }: { name: string; tokens: TokenEffect[] }) {
  return (
    <div>
      <h4>{name}</h4>
      <ul class="plain-list">
        {tokens.map((one) => (
          <li key={one.id}>
            <code>{one.text}</code>
            <span class="num">{shown(one.logit)}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Quality({ inspection }: { inspection: Inspection }) {
  const { recommended, not_recommended } = inspection;
  if (!recommended && !not_recommended) return null;
  const facts = Object.entries(recommended ?? {}).map(([name, value]) => `${name} ${typeof value === "number" ? shown(value) : String(value)}`);
  return (
    <section>
      <h3>{words.vectors.quality}</h3>
      <p>{recommended ? `${words.vectors.recommended}: ${facts.join(" · ")}` : `${words.vectors.notRecommended}: ${not_recommended}`}</p>
    </section>
  );
}
