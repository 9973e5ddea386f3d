import { useEffect } from "preact/hooks";

import type { Answer } from "../state/compare/answer";
import { words } from "../strings";

/** The numbers of the token under the pointer, which is marked in the text. */
export function Readout({ answer }: { answer: Answer }) {
  const token = answer.trace.pointed.value;
  useEffect(() => markToken(answer, token), [answer, token]);
  if (token === null) return <p class="readout">{words.chart.point}</p>;
  const values = answer.trace.properties.map((one) =>
    words.chart.value(one.name, one.coefficients[token] ?? 0, one.divergences[token] ?? 0),
  );
  return (
    <p class="readout" aria-live="polite">
      <strong>{words.chart.readout(token, pieceAt(answer, token)?.text.trim() ?? "")}</strong> {values.join(" · ")}
    </p>
  );
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
