import type { Vector } from "../../api/types";
import { changeUse, type Column } from "../../state/compare/columns";
import { capabilities } from "../../state/server";
import { writeLayers } from "../../steering/layers";
import type { Use } from "../../steering/mix";
import { kindOf } from "../../steering/positions";
import { words } from "../../strings";
import { GateFields } from "./gate_fields";
import { LayersInput } from "./layers_input";
import { OperationFields } from "./operation_fields";
import { PositionsFields } from "./positions_fields";
import { ScheduleFields } from "./schedule_fields";

interface Props {
  column: Column;
  use: Use;
  vector: Vector | undefined;
}

/** What most people leave as the vector says it: which layers, which tokens, how the coefficient goes on. */
export function UseDetails({ column, use, vector }: Props) {
  const dynamic = column.mix.dynamic !== null;
  // A link may bring what this server does not serve, and no control shows.
  const other = [...Object.keys(use.more), ...(use.gate && !capabilities.value?.gates ? ["gate"] : [])];
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
        {!dynamic && <GateFields column={column} use={use} />}
        {other.length > 0 && <p class="field-hint">{words.sliders.other(other.join(", "))}</p>}
      </div>
    </details>
  );
}

function summaryOf(use: Use, vector: Vector | undefined): string {
  const layers = use.layers ?? vector?.layers;
  const operation = use.operation ?? vector?.operation ?? "add";
  const parts = layers ? [`${words.sliders.layers} ${writeLayers(layers)}`] : [];
  if (operation !== "add") parts.push(words.operations.names[operation] ?? operation);
  if (use.positions) parts.push(words.sliders.positionNames[kindOf(use.positions)] ?? "");
  if (use.schedule.kind !== "constant") parts.push(words.sliders.scheduleNames[use.schedule.kind] ?? "");
  if (use.gate) parts.push(words.gates.short(use.gate.id, use.gate.side, use.gate.threshold));
  // What else can be set is not to be guessed from the layers alone.
  return [...parts, ...(parts.length < 2 ? [words.sliders.more] : [])].join(" · ");
}
