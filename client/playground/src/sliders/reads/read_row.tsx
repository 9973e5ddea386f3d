import { Field, Select } from "../../parts/fields";
import { Icon } from "../../parts/icon";
import { changeRead, removeRead, type Column } from "../../state/compare/columns";
import { vectorOf } from "../../state/vectors";
import type { Read } from "../../steering/mix";
import { words } from "../../strings";
import { LayersInput } from "../details/layers_input";

interface Props {
  column: Column;
  read: Read;
  /** What the server takes. */
  measures: readonly string[];
  tokens: readonly string[];
}

/** One vector along which the stream is read: at which layers, what, and at which tokens. */
export function ReadRow({ column, read, measures, tokens }: Props) {
  const w = words.reads;
  const change = (next: Partial<Omit<Read, "key">>) => changeRead(column.id, read.key, next);
  return (
    <fieldset class="read">
      <legend class="unseen">{w.row(read.id)}</legend>
      <div class="use-head">
        <span class="use-name" title={vectorOf(read.id)?.description || undefined}>
          {read.id}
        </span>
        <button type="button" class="quiet square" aria-label={w.remove(read.id)} onClick={() => removeRead(column.id, read.key)}>
          <Icon name="close" />
        </button>
      </div>
      <div class="pair">
        <Field label={w.measure}>
          {(id) => (
            <Select
              id={id}
              value={read.measure}
              options={measures.map((one) => [one, w.measureNames[one] ?? one] as const)}
              onChange={(measure) => change({ measure })}
            />
          )}
        </Field>
        <Field label={w.tokens}>
          {(id) => (
            <Select
              id={id}
              value={read.tokens}
              options={tokens.map((one) => [one, w.tokenNames[one] ?? one] as const)}
              onChange={(next) => change({ tokens: next })}
            />
          )}
        </Field>
      </div>
      <LayersInput layers={read.layers} own={vectorOf(read.id)?.layers ?? []} onChange={(layers) => change({ layers })} />
    </fieldset>
  );
}
