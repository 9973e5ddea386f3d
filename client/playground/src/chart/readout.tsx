import { useEffect } from "preact/hooks";

import type { Answer } from "../state/compare/answer";
import type { Property, Trace } from "../state/compare/trace";
import { words } from "../strings";

/** The numbers of the token under the pointer, which is marked in the text. */
export function Readout({ answer, trace }: { answer: Answer; trace: Trace }) {
  const token = trace.pointed.value;
  useEffect(() => (trace.ofAnswer ? markToken(answer, token) : undefined), [answer, trace, token]);
  if (token === null) return <p class="readout">{words.chart.point}</p>;
  const values = trace.properties.map((one) => valueOf(one, token));
  const text = trace.ofAnswer ? (pieceAt(answer, token)?.text.trim() ?? "") : null;
  return (
    <p class="readout" aria-live="polite">
      <strong>{words.chart.readout(token, text)}</strong> {values.join(" · ")}
    </p>
  );
}

function valueOf({ name, values, divergences }: Property, token: number): string {
  const value = values[token] ?? 0;
  return divergences ? words.chart.value(name, value, divergences[token] ?? 0) : words.reads.value(name, value);
}

function pieceAt(answer: Answer, token: number) {
  return answer.blocks.value
    .flatMap((block) => block.pieces.value)
    .find((piece) => piece.token !== null && token >= piece.token && token < piece.token + piece.tokens);
}

function markToken(answer: Answer, token: number | null): (() => void) | undefined {
  const first = token === null ? null : pieceAt(answer, token)?.token;
  const place = document.querySelector(`[data-answer="${answer.id}"] [data-token="${first}"]`);
  place?.classList.add("is-pointed");
  return () => place?.classList.remove("is-pointed");
}
