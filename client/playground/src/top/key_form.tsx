import { useState } from "preact/hooks";

import { Field } from "../parts/fields";
import { key, keyKept } from "../state/key";
import { connect } from "../state/server";
import { words } from "../strings";

/** Asks for the key, and connects with it. */
export function KeyForm({ onDone }: { onDone?: () => void }) {
  const [typed, setTyped] = useState(key.value);
  const use = (next: string) => {
    key.value = next.trim();
    void connect();
    onDone?.();
  };
  const submit = (event: Event) => {
    event.preventDefault();
    use(typed);
  };
  return (
    <form class="stack" onSubmit={submit}>
      <Field label={words.key.label} hint={words.key.why}>
        {(id, describedBy) => (
          <input
            id={id}
            type="password"
            autocomplete="off"
            spellcheck={false}
            aria-describedby={describedBy}
            value={typed}
            onInput={(event) => setTyped(event.currentTarget.value)}
          />
        )}
      </Field>
      <label class="check">
        <input type="checkbox" checked={keyKept.value} onChange={(event) => (keyKept.value = event.currentTarget.checked)} />
        {words.key.keep}
      </label>
      <div class="row">
        <button type="submit" class="primary" disabled={!typed.trim()}>
          {words.key.use}
        </button>
        {key.value && (
          <button type="button" onClick={() => use("")}>
            {words.key.forget}
          </button>
        )}
      </div>
    </form>
  );
}
