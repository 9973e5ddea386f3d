import type { Positions, Vector } from "../../api/types";
import { Field, NumberInput, Select } from "../../parts/fields";
import { changeUse, type Column } from "../../state/compare/columns";
import { capabilities } from "../../state/server";
import { writeLayers } from "../../steering/layers";
import type { Use } from "../../steering/mix";
import { words } from "../../strings";
import { LayersInput } from "./layers_input";
import { OperationFields } from "./operation_fields";
import { ScheduleFields } from "./schedule_fields";

interface Props {
  column: Column;
  use: Use;
  vector: Vector | undefined;
}

/** What most people leave as the vector says it: which layers, which tokens, how the coefficient goes on. */
export function UseDetails({ column, use, vector }: Props) {
  const dynamic = column.mix.dynamic !== null;
  const other = Object.keys(use.more);
  return (
    <details class="use-details">
      <summary>{summaryOf(use, vector)}</summary>
      <div class="stack">
        <LayersInput
          layers={use.layers}
          own={vector?.layers ?? []}
          onChange={(layers) => changeUse(column.id, use.key, { layers })}
        />
        {!dynamic && <OperationFields column={column} use={use} vector={vector} />}
        {!dynamic && <PositionsFields column={column} use={use} vector={vector} />}
        {!dynamic && <ScheduleFields column={column} use={use} />}
        {other.length > 0 && <p class="field-hint">{words.sliders.other(other.join(", "))}</p>}
      </div>
    </details>
  );
}

function summaryOf(use: Use, vector: Vector | undefined): string {
  const layers = use.layers ?? vector?.layers;
  const operation = use.operation ?? vector?.operation ?? "add";
  const parts = [layers ? `${words.sliders.layers} ${writeLayers(layers)}` : words.sliders.more];
  if (operation !== "add") parts.push(words.operations.names[operation] ?? operation);
  if (use.positions) parts.push(words.sliders.positionNames[kindOf(use.positions)] ?? "");
  if (use.schedule.kind !== "constant") parts.push(words.sliders.scheduleNames[use.schedule.kind] ?? "");
  return parts.join(" · ");
}

function kindOf(positions: Positions): string {
  return typeof positions === "string" ? positions : "range";
}

function PositionsFields({ column, use, vector }: Props) {
  const own = vector ? words.sliders.positionNames[kindOf(vector.positions)] ?? "" : "";
  const kinds = capabilities.value?.positions ?? [];
  const options: [string, string][] = [["", words.sliders.own(own)]];
  for (const kind of kinds) {
    const name = words.sliders.positionNames[kind];
    if (name) options.push([kind, name]);
  }
  const change = (positions: Positions | null) => changeUse(column.id, use.key, { positions });
  const choose = (kind: string) => {
    if (kind === "") change(null);
    else change(kind === "range" ? { start: 0, stop: null } : (kind as Positions));
  };
  const range = use.positions !== null && typeof use.positions !== "string" ? use.positions : null;
  return (
    <>
      <Field label={words.sliders.positions}>
        {(id) => (
          <Select id={id} value={use.positions === null ? "" : kindOf(use.positions)} options={options} onChange={choose} />
        )}
      </Field>
      {range && (
        <div class="pair">
          <Field label={words.sliders.from}>
            {(id) => <NumberInput id={id} value={range.start ?? 0} step={1} onChange={(start) => change({ ...range, start })} />}
          </Field>
          <Field label={words.sliders.to}>
            {(id) => (
              <NumberInput
                id={id}
                value={range.stop ?? null}
                step={1}
                onChange={(stop) => change({ ...range, stop })}
                onEmpty={() => change({ ...range, stop: null })}
              />
            )}
          </Field>
        </div>
      )}
    </>
  );
}
