import { useLayoutEffect, useRef } from "preact/hooks";

import { useTint } from "../chart/tint";
import type { Answer, Block, Piece } from "../state/compare/answer";

/** The text of an answer, as text. Of a dynamic one each token is tinted by its coefficient. */
export function AnswerText({ answer }: { answer: Answer }) {
  const point = (event: Event) => {
    if (!(event.target instanceof HTMLElement)) return;
    const token = event.target.dataset.token;
    answer.trace.pointed.value = token === undefined ? null : Number(token);
  };
  return (
    <p class="answer-text" data-answer={answer.id} onMouseOver={point} onMouseLeave={() => (answer.trace.pointed.value = null)}>
      {answer.blocks.value.map((block) => (
        <BlockText key={block.id} block={block} answer={answer} />
      ))}
      {answer.status.value === "streaming" && <span class="caret" aria-hidden="true" />}
    </p>
  );
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
  const { series, share } = useTint(answer.trace, piece);
  useLayoutEffect(() => span.current?.style.setProperty("--tint", `${Math.round(share * 100)}%`), [share]);
  if (piece.token === null) return <span>{piece.text}</span>;
  return (
    <span class="token" data-token={piece.token} data-series={series % 8} ref={span}>
      {piece.text}
    </span>
  );
}
