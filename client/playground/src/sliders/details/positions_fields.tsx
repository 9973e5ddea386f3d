import { useState } from "preact/hooks";

import type { Positions, Vector } from "../../api/types";
import { Field, NumberInput, Select } from "../../parts/fields";
import { changeUse, type Column } from "../../state/compare/columns";
import { capabilities } from "../../state/server";
import type { Use } from "../../steering/mix";
import { SIDES, firstOf, kindOf, kindsOf } from "../../steering/positions";
import { words } from "../../strings";
import { MarkerInput } from "./marker_input";

interface Props {
  column: Column;
  use: Use;
  vector: Vector | undefined;
}

/** Which tokens the vector steers: those of the kinds that the server has. */
export function PositionsFields({ column, use, vector }: Props) {
  // A marker is chosen before it is written, and only then part of the mix.
  const [chosen, setChosen] = useState<string | null>(null);
  const names = words.sliders.positionNames;
  const own = vector ? names[kindOf(vector.positions)] ?? "" : "";
  const kind = chosen ?? (use.positions === null ? "" : kindOf(use.positions));
  const options: [string, string][] = [["", words.sliders.own(own)]];
  for (const one of new Set([...kindsOf(capabilities.value?.positions ?? []), kind])) {
    if (one && names[one]) options.push([one, names[one]]);
  }
  const change = (positions: Positions | null) => changeUse(column.id, use.key, { positions });
  const choose = (next: string) => {
    const marks = SIDES.some((side) => side === next);
    setChosen(marks ? next : null);
    change(marks ? null : firstOf(next));
  };
  const side = SIDES.find((one) => one === kind);
  return (
    <>
      <Field label={words.sliders.positions}>
        {(id) => <Select id={id} value={kind} options={options} onChange={choose} />}
      </Field>
      {side && <MarkerInput key={side} side={side} positions={use.positions} onChange={change} />}
      {(kind === "range" || kind === "answer_range") && <Range positions={use.positions as Ends} onChange={change} />}
    </>
  );
}

type Ends = { start?: number; stop?: number; of?: "answer" };

function Range({ positions, onChange }: { positions: Ends; onChange: (next: Positions) => void }) {
  const ofAnswer = positions.of === "answer";
  const set = (change: Ends) => onChange({ ...positions, ...change } as Positions);
  const withoutEnd = () => {
    const { stop: _, ...rest } = positions;
    onChange(rest as Positions);
  };
  return (
    <>
      <div class="pair">
        <Field label={words.sliders.from}>
          {(id) => <NumberInput id={id} value={positions.start ?? 0} min={ofAnswer ? 0 : undefined} step={1} onChange={(start) => set({ start })} />}
        </Field>
        <Field label={words.sliders.to}>
          {(id) => (
            <NumberInput
              id={id}
              value={positions.stop ?? null}
              min={ofAnswer ? 1 : undefined}
              step={1}
              onChange={(stop) => set({ stop })}
              onEmpty={ofAnswer ? withoutEnd : undefined}
            />
          )}
        </Field>
      </div>
      <p class="field-hint">{ofAnswer ? words.sliders.answerRangeHint : words.sliders.rangeHint}</p>
    </>
  );
}
