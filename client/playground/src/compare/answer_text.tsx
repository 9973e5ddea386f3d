import { useLayoutEffect, useRef } from "preact/hooks";

import { tinting, useTint } from "../chart/tint";
import type { Answer, Block, Piece } from "../state/compare/answer";

/** The text of an answer, as text. Where something is known by token, each is tinted by it. */
export function AnswerText({ answer }: { answer: Answer }) {
  const { pointed } = answer.traces;
  const point = (event: Event) => {
    if (!(event.target instanceof HTMLElement)) return;
    const token = event.target.dataset.token;
    pointed.value = token === undefined ? null : Number(token);
  };
  return (
    <p class="answer-text" data-answer={answer.id} ref={useEnds(answer)} onMouseOver={point} onMouseLeave={() => (pointed.value = null)}>
      {answer.blocks.value.map((block) => (
        <BlockText key={block.id} block={block} answer={answer} />
      ))}
      {answer.status.value === "streaming" && <span class="caret" aria-hidden="true" />}
    </p>
  );
}

/** What no tint and a full one mean, on the whole text: no token is drawn anew when a larger number comes. */
function useEnds(answer: Answer) {
  const text = useRef<HTMLParagraphElement>(null);
  const trace = tinting(answer.traces)?.trace;
  const version = trace?.version.value;
  useLayoutEffect(() => {
    if (!trace) return;
    text.current?.style.setProperty("--low", String(trace.ends.low));
    text.current?.style.setProperty("--high", String(trace.ends.high));
  }, [trace, version]);
  return text;
}

function BlockText({ block, answer }: { block: Block; answer: Answer }) {
  const pieces = block.pieces.value;
  if (pieces.every((piece) => piece.token === null)) return <span>{pieces.map((piece) => piece.text).join("")}</span>;
  return (
    <span>
      {pieces.map((piece, n) => (
        <TintedPiece key={n} piece={piece} answer={answer} />
      ))}
    </span>
  );
}

function TintedPiece({ piece, answer }: { piece: Piece; answer: Answer }) {
  const span = useRef<HTMLSpanElement>(null);
  const { series, value } = useTint(answer.traces, piece);
  useLayoutEffect(() => span.current?.style.setProperty("--tint", value.toFixed(6)), [value]);
  if (piece.token === null) return <span>{piece.text}</span>;
  return (
    <span class="token" data-token={piece.token} data-series={series} ref={span}>
      {piece.text}
    </span>
  );
}
