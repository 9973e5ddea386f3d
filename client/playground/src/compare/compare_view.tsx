import { SlidersPanel } from "../sliders/sliders_panel";
import { boundTo } from "../state/server";
import { columns } from "../state/compare/columns";
import { turns } from "../state/compare/conversation";
import { words } from "../strings";
import { ColumnHeads } from "./column_heads";
import { Composer } from "./composer";
import { TurnRow } from "./turn_row";

/** One conversation in two or more columns, and the sliders of one of them. */
export function CompareView() {
  return (
    <div class={turns.value.length === 0 ? "compare is-fresh" : "compare"}>
      <SlidersPanel />
      <div class="talk" data-columns={columns.value.length}>
        <ColumnHeads />
        <div class="turns">
          {turns.value.length === 0 && boundTo.value === null && <Hint />}
          {turns.value.map((turn) => (
            <TurnRow key={turn.id} turn={turn} />
          ))}
        </div>
        <Composer />
      </div>
    </div>
  );
}

function Hint() {
  return (
    <div class="hint">
      <h2>{words.compare.hintTitle}</h2>
      <p>{words.compare.hint}</p>
      <ol>
        {words.compare.hintSteps.map((step) => (
          <li key={step}>{step}</li>
        ))}
      </ol>
    </div>
  );
}
