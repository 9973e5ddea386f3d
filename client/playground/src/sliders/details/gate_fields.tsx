import { Field, NumberInput, Select } from "../../parts/fields";
import { changeUse, type Column } from "../../state/compare/columns";
import { capabilities } from "../../state/server";
import { vectorOf, wholeVectorOf } from "../../state/vectors";
import { layerFor, layersOf, ownGate } from "../../steering/gate";
import { conditionsIn, type Gate, type Use } from "../../steering/mix";
import { words } from "../../strings";
import { NameInput } from "../names/name_input";

/** Whether the vector acts everywhere, or only where another one measures enough. Nothing where gates are not served. */
export function GateFields({ column, use }: { column: Column; use: Use }) {
  const served = capabilities.value?.gates;
  if (!served) return null;
  const w = words.gates;
  const set = (gate: Gate | null) => changeUse(column.id, use.key, { gate });
  const full = use.gate === null && conditionsIn(column.mix) >= served.max_gates;
  const steered = use.layers ?? vectorOf(use.id)?.layers ?? [];
  // To begin with: where the stream points the vector's own way already.
  const first = (): Gate => ({
    id: use.id,
    layer: layerFor(vectorOf(use.id), steered),
    measure: served.measures.includes("cosine") ? "cosine" : served.measures[0]!,
    side: "above",
    threshold: 0,
    over: served.over[0]!,
  });
  return (
    <fieldset class="gate">
      <legend class="unseen">{w.on}</legend>
      <label class="check">
        <input
          type="checkbox"
          checked={use.gate !== null}
          disabled={full}
          onChange={(event) => set(event.currentTarget.checked ? first() : null)}
        />
        {w.on}
      </label>
      <p class="field-hint">{full ? w.most(served.max_gates) : w.hint}</p>
      {use.gate && <Settings gate={use.gate} steered={steered} measures={served.measures} overs={served.over} set={set} />}
    </fieldset>
  );
}

interface Props {
  gate: Gate;
  steered: readonly number[];
  measures: readonly string[];
  overs: readonly string[];
  set: (gate: Gate) => void;
}

function Settings({ gate, steered, measures, overs, set }: Props) {
  const w = words.gates;
  const layers = layersOf(vectorOf(gate.id));
  const own = ownGate(wholeVectorOf(gate.id), gate.id);
  const measureWith = (id: string) => {
    const vector = vectorOf(id);
    set({ ...gate, id, layer: layersOf(vector).includes(gate.layer) ? gate.layer : layerFor(vector, steered) });
  };
  const options = (all: readonly string[], names: Record<string, string>) => all.map((one) => [one, names[one] ?? one] as const);
  return (
    <div class="stack">
      <div class="pair">
        <Field label={w.vector}>
          {(id) => <NameInput id={id} value={gate.id} onChange={measureWith} />}
        </Field>
        <Field label={w.layer}>
          {(id) =>
            layers.length > 0 ? (
              <Select
                id={id}
                value={String(gate.layer)}
                options={layers.map((one) => [String(one), String(one)] as const)}
                onChange={(layer) => set({ ...gate, layer: Number(layer) })}
              />
            ) : (
              <NumberInput id={id} value={gate.layer} min={0} step={1} onChange={(layer) => set({ ...gate, layer })} />
            )
          }
        </Field>
      </div>
      {own && JSON.stringify(own) !== JSON.stringify(gate) && (
        <button type="button" onClick={() => set(own)}>
          {w.useOwn(own.side, own.threshold, own.layer)}
        </button>
      )}
      <Field label={w.measure} hint={w.measureHints[gate.measure]}>
        {(id, note) => (
          <Select id={id} describedBy={note} value={gate.measure} options={options(measures, w.measureNames)} onChange={(measure) => set({ ...gate, measure })} />
        )}
      </Field>
      <div class="pair">
        <Field label={w.side}>
          {(id) => (
            <Select
              id={id}
              value={gate.side}
              options={Object.entries(w.sideNames)}
              onChange={(side) => set({ ...gate, side: side === "below" ? "below" : "above" })}
            />
          )}
        </Field>
        <Field label={w.threshold}>
          {(id) => <NumberInput id={id} value={gate.threshold} onChange={(threshold) => set({ ...gate, threshold })} />}
        </Field>
      </div>
      <Field label={w.over} hint={w.overHints[gate.over]}>
        {(id, note) => (
          <Select id={id} describedBy={note} value={gate.over} options={options(overs, w.overNames)} onChange={(over) => set({ ...gate, over })} />
        )}
      </Field>
    </div>
  );
}
