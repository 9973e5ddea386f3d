import { useId, useState } from "preact/hooks";

import { Icon } from "../../parts/icon";
import { vectorOf } from "../../state/vectors";
import { proposes } from "./vector_names";

/** Names one more vector: by choosing it, or by typing its name. */
export function VectorPicker({ label, onPick }: { label: string; onPick: (id: string) => void }) {
  const [typed, setTyped] = useState("");
  const id = useId();
  const pick = (name: string) => {
    onPick(name);
    setTyped("");
  };
  const submit = (event: Event) => {
    event.preventDefault();
    if (typed.trim()) pick(typed.trim());
  };
  // A whole name that is chosen from the list needs no second step.
  const take = (event: InputEvent & { currentTarget: HTMLInputElement }) => {
    const text = event.currentTarget.value;
    const wasChosen = !event.inputType || event.inputType === "insertReplacementText";
    if (!wasChosen || !vectorOf(text)) return setTyped(text);
    pick(text);
    // The state may have been empty all along, and then nothing is rendered anew.
    event.currentTarget.value = "";
  };
  return (
    <form class="add-vector" onSubmit={submit}>
      <label for={id} class="unseen">
        {label}
      </label>
      <input id={id} {...proposes} value={typed} placeholder={label} onInput={take} />
      <button type="submit" class="square" aria-label={label} disabled={!typed.trim()}>
        <Icon name="plus" />
      </button>
    </form>
  );
}
