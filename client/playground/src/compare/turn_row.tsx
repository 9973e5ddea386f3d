import { useEffect, useRef, useState } from "preact/hooks";

import { Icon } from "../parts/icon";
import { changedColumns } from "../state/compare/again";
import { columns } from "../state/compare/columns";
import { answerAgain, answersAgain, resend, turns, type Turn } from "../state/compare/conversation";
import { words } from "../strings";
import { AnswerView } from "./answer_view";
import { titleOf } from "./column_title";

/** A message, and under it the answer of each column. */
export function TurnRow({ turn }: { turn: Turn }) {
  const isLast = turns.value[turns.value.length - 1] === turn;
  const row = useRef<HTMLElement>(null);
  useEffect(() => row.current?.scrollIntoView({ block: "nearest" }), []);
  return (
    <article class="turn" ref={row}>
      <Said turn={turn} />
      <div class="answers">
        {columns.value.map((column) => {
          const answer = turn.answers.get(column.id);
          const changed = isLast && !answersAgain.value && changedColumns.value.includes(column);
          return (
            <section key={column.id} class="answer" aria-label={words.compare.answerOf(titleOf(column))}>
              <p class="answer-column">{titleOf(column)}</p>
              {answer ? <AnswerView key={answer.id} answer={answer} /> : <p class="answer-none">{words.compare.noAnswer}</p>}
              {changed && <p class="field-hint">{words.compare.changed}</p>}
              {isLast && (changed || (answer && !answer.isRunning)) && (
                <button type="button" class={changed ? "again" : "quiet again"} onClick={() => answerAgain(column)}>
                  <Icon name="again" />
                  {words.compare.again}
                </button>
              )}
            </section>
          );
        })}
      </div>
    </article>
  );
}

function Said({ turn }: { turn: Turn }) {
  const [edited, setEdited] = useState<string | null>(null);
  if (edited === null) {
    return (
      <div class="said">
        <p class="said-text">{turn.said}</p>
        <button type="button" class="quiet" onClick={() => setEdited(turn.said)}>
          <Icon name="edit" />
          {words.compare.editTurn}
        </button>
      </div>
    );
  }
  const submit = (event: Event) => {
    event.preventDefault();
    if (!edited.trim()) return;
    setEdited(null);
    resend(turn, edited.trim());
  };
  return (
    <form class="said is-edited" onSubmit={submit}>
      <textarea
        aria-label={words.compare.edited}
        value={edited}
        rows={3}
        ref={(area) => area?.focus()}
        onInput={(event) => setEdited(event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Escape" && setEdited(null)}
      />
      <div class="row">
        <button type="submit" class="primary">
          {words.compare.resend}
        </button>
        <button type="button" onClick={() => setEdited(null)}>
          {words.cancel}
        </button>
      </div>
    </form>
  );
}
