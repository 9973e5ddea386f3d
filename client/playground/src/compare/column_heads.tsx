import { useState } from "preact/hooks";

import { Icon } from "../parts/icon";
import { MOST_COLUMNS, addColumn, columns, removeColumn, selectedId, type Column } from "../state/compare/columns";
import { copyAnswers } from "../state/compare/conversation";
import { words } from "../strings";
import { titleOf } from "./column_title";
import { CopyDialog } from "./copy_dialog";

/** Over each column: how it is steered. One of them has the sliders. */
export function ColumnHeads() {
  const add = () => {
    const from = selectedId.value;
    copyAnswers(from, addColumn());
  };
  return (
    <div class="heads" role="group" aria-label={words.compare.columns}>
      {columns.value.map((column) => (
        <ColumnHead key={column.id} column={column} />
      ))}
      {columns.value.length < MOST_COLUMNS && (
        <button
          type="button"
          class="quiet square add-column"
          aria-label={words.compare.addColumn}
          title={`${words.compare.addColumn}: ${words.compare.addColumnHint}`}
          onClick={add}
        >
          <Icon name="plus" />
          <span class="add-column-name">{words.compare.addColumn}</span>
        </button>
      )}
    </div>
  );
}

function ColumnHead({ column }: { column: Column }) {
  const [copies, setCopies] = useState(false);
  const title = titleOf(column);
  const isSelected = column.id === selectedId.value;
  return (
    <div class={isSelected ? "head is-selected" : "head"}>
      <button
        type="button"
        class="head-title"
        aria-pressed={isSelected}
        title={isSelected ? words.compare.editing : words.compare.edit(title)}
        onClick={() => (selectedId.value = column.id)}
      >
        {title}
      </button>
      <button type="button" class="quiet head-copy" onClick={() => setCopies(true)} aria-label={words.copyAs.title(title)}>
        {words.copyAs.open}
      </button>
      {columns.value.length > 1 && (
        <button type="button" class="quiet square" aria-label={words.compare.removeColumn(title)} onClick={() => removeColumn(column.id)}>
          <Icon name="close" />
        </button>
      )}
      {copies && <CopyDialog column={column} onClose={() => setCopies(false)} />}
    </div>
  );
}
