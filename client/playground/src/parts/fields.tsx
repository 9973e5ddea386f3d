import type { ComponentChildren } from "preact";
import { useEffect, useId, useState } from "preact/hooks";

interface FieldProps {
  label: string;
  hint?: string | undefined;
  error?: string | null | undefined;
  children: (id: string, describedBy: string | undefined) => ComponentChildren;
}

/** A control with its label, a hint and what is wrong with it. */
export function Field({ label, hint, error, children }: FieldProps) {
  const id = useId();
  const note = error ?? hint;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children(id, note ? `${id}-note` : undefined)}
      {note && (
        <p id={`${id}-note`} class={error ? "field-error" : "field-hint"}>
          {note}
        </p>
      )}
    </div>
  );
}

interface NumberProps {
  id?: string | undefined;
  label?: string | undefined;
  describedBy?: string | undefined;
  /** Null: nothing is typed, which only an input with `onEmpty` may have. */
  value: number | null;
  min?: number | undefined;
  max?: number | undefined;
  step?: number | "any" | undefined;
  onChange: (value: number) => void;
  onEmpty?: (() => void) | undefined;
}

/** A number that may be typed in any way; it is taken once it is a number within the limits. */
export function NumberInput({ id, label, describedBy, value, min, max, step = "any", onChange, onEmpty }: NumberProps) {
  const written = value === null ? "" : String(value);
  const [text, setText] = useState(written);
  useEffect(() => {
    if (text.trim() === "" ? value !== null : Number(text) !== value) setText(written);
  }, [value]);
  const take = (next: string) => {
    setText(next);
    if (next.trim() === "") return onEmpty?.();
    const number = Number(next);
    const fits = next.trim() !== "" && Number.isFinite(number) && number >= (min ?? -Infinity) && number <= (max ?? Infinity);
    if (fits) onChange(number);
  };
  return (
    <input
      id={id}
      type="number"
      class="number"
      aria-label={label}
      aria-describedby={describedBy}
      value={text}
      min={min}
      max={max}
      step={step}
      onInput={(event) => take(event.currentTarget.value)}
      onBlur={() => setText(written)}
    />
  );
}

interface SelectProps {
  id: string;
  describedBy?: string | undefined;
  value: string;
  options: readonly (readonly [value: string, text: string])[];
  onChange: (value: string) => void;
}

export function Select({ id, describedBy, value, options, onChange }: SelectProps) {
  return (
    <select id={id} aria-describedby={describedBy} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
      {options.map(([one, text]) => (
        <option key={one} value={one} selected={one === value}>
          {text}
        </option>
      ))}
    </select>
  );
}
