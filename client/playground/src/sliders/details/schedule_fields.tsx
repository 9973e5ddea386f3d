import { useState } from "preact/hooks";

import { Field, NumberInput, Select } from "../../parts/fields";
import { changeUse, type Column } from "../../state/compare/columns";
import { capabilities } from "../../state/server";
import type { Schedule, Use } from "../../steering/mix";
import { words } from "../../strings";

/** How the coefficient goes from token to token. */
export function ScheduleFields({ column, use }: { column: Column; use: Use }) {
  const schedule = use.schedule;
  const change = (next: Schedule) => changeUse(column.id, use.key, { schedule: next });
  const choose = (kind: string) => {
    if (kind === "diminishing") change({ kind, over: 40 });
    else if (kind === "list") change({ kind, coefficients: [use.coefficient], hold: false });
    else change({ kind: kind === "start" ? "start" : "constant" });
  };
  const options = (capabilities.value?.schedules ?? ["constant"]).flatMap((kind): [string, string][] => {
    const name = words.sliders.scheduleNames[kind];
    return name ? [[kind, name]] : [];
  });
  return (
    <>
      <Field label={words.sliders.schedule}>
        {(id) => <Select id={id} value={schedule.kind} options={options} onChange={choose} />}
      </Field>
      {schedule.kind === "diminishing" && (
        <Field label={words.sliders.over}>
          {(id) => <NumberInput id={id} value={schedule.over} min={1} step={1} onChange={(over) => change({ kind: "diminishing", over })} />}
        </Field>
      )}
      {schedule.kind === "list" && <ListFields schedule={schedule} onChange={change} />}
    </>
  );
}

type List = Extract<Schedule, { kind: "list" }>;

function ListFields({ schedule, onChange }: { schedule: List; onChange: (next: List) => void }) {
  const [typed, setTyped] = useState(schedule.coefficients.join(", "));
  const wrong = readNumbers(typed) === null;
  const take = (text: string) => {
    setTyped(text);
    const coefficients = readNumbers(text);
    if (coefficients) onChange({ ...schedule, coefficients });
  };
  return (
    <>
      <Field label={words.sliders.list} error={wrong ? words.sliders.listWrong : null}>
        {(id, describedBy) => (
          <input
            id={id}
            aria-describedby={describedBy}
            aria-invalid={wrong}
            autocomplete="off"
            value={typed}
            onInput={(event) => take(event.currentTarget.value)}
          />
        )}
      </Field>
      <label class="check">
        <input
          type="checkbox"
          checked={schedule.hold}
          onChange={(event) => onChange({ ...schedule, hold: event.currentTarget.checked })}
        />
        {words.sliders.hold}
      </label>
    </>
  );
}

function readNumbers(text: string): number[] | null {
  const parts = text.split(/[\s,]+/).filter(Boolean);
  const numbers = parts.map(Number);
  return numbers.length > 0 && numbers.every(Number.isFinite) ? numbers : null;
}
