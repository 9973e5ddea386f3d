import { computed, effect } from "@preact/signals";

import { columns, type Column } from "./columns";
import { answerAgain, answersAgain, requestOf, turns } from "./conversation";

const AFTER_MS = 350;

/** Columns whose sliders have changed since their last answer was asked for. */
export const changedColumns = computed(() => columns.value.filter(isChanged));

function isChanged(column: Column): boolean {
  const last = turns.value[turns.value.length - 1];
  const answer = last?.answers.get(column.id);
  if (!last || !answer) return false;
  const now = requestOf(column.mix, column.id, [], last.said);
  return now.model !== answer.body.model || JSON.stringify(now.steering) !== JSON.stringify(answer.body.steering);
}

/** Answer again when a slider has rested for a moment. */
export function watchSliders(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  effect(() => {
    const changed = changedColumns.value;
    clearTimeout(timer);
    if (changed.length > 0 && answersAgain.value) {
      timer = setTimeout(() => changed.forEach(answerAgain), AFTER_MS);
    }
  });
}
