import type { Vector } from "../../api/types";
import { Field, NumberInput, Select } from "../../parts/fields";
import { changeUse, type Column } from "../../state/compare/columns";
import { capabilities } from "../../state/server";
import { OPERATION_SETTINGS, type OperationSetting, type Use } from "../../steering/mix";
import { words } from "../../strings";

interface Props {
  column: Column;
  use: Use;
  vector: Vector | undefined;
}

/** What the vector does to the stream. Nothing on a server that only adds. */
export function OperationFields({ column, use, vector }: Props) {
  const served = capabilities.value?.operations ?? [];
  if (served.length < 2) return null;
  const w = words.operations;
  const own = vector?.operation ?? "add";
  const options: [string, string][] = [["", words.sliders.own(w.names[own] ?? own)]];
  for (const name of served) options.push([name, w.names[name] ?? name]);
  // As the server has it: another operation starts from 1, and what replaces the stream needs to be told where.
  const choose = (name: string) =>
    changeUse(column.id, use.key, {
      operation: name || null,
      settings: {},
      coefficient: name && name !== own ? 1 : (vector?.coefficient ?? 1),
      ...(name === "replace" && use.positions === null ? { positions: "generation" as const } : {}),
    });
  const set = (name: string, value: OperationSetting | null) => {
    const { [name]: _, ...rest } = use.settings;
    changeUse(column.id, use.key, { settings: value === null ? rest : { ...rest, [name]: value } });
  };
  const operation = use.operation ?? own;
  return (
    <>
      <Field label={w.title} hint={w.hints[operation]}>
        {(id) => <Select id={id} value={use.operation ?? ""} options={options} onChange={choose} />}
      </Field>
      {(OPERATION_SETTINGS[operation] ?? []).map((name) => (
        <Setting key={name} name={name} value={use.settings[name] ?? null} onChange={(value) => set(name, value)} />
      ))}
    </>
  );
}

interface SettingProps {
  name: string;
  value: OperationSetting | null;
  onChange: (value: OperationSetting | null) => void;
}

function Setting({ name, value, onChange }: SettingProps) {
  const w = words.operations;
  const label = w.settings[name] ?? name;
  if (name === "adaptive") {
    return (
      <label class="check">
        <input type="checkbox" checked={value === true} onChange={(event) => onChange(event.currentTarget.checked || null)} />
        {label}
      </label>
    );
  }
  if (name === "unit") {
    return (
      <Field label={label}>
        {(id) => (
          <Select id={id} value={String(value ?? "stream")} options={Object.entries(w.units)} onChange={(unit) => onChange(unit === "stream" ? null : unit)} />
        )}
      </Field>
    );
  }
  return (
    <Field label={label}>
      {(id) => <NumberInput id={id} value={typeof value === "number" ? value : null} onChange={onChange} onEmpty={() => onChange(null)} />}
    </Field>
  );
}
