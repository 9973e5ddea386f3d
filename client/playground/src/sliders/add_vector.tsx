import { useId, useState } from "preact/hooks";

import { Icon } from "../parts/icon";
import { addUse, type Column } from "../state/compare/columns";
import { ownCoefficient, usable, vectorOf, vectorsProblem } from "../state/vectors";
import { show } from "../state/view";
import { words } from "../strings";

/** Puts one more vector into the mix: by choosing, or by typing its name. */
export function AddVector({ column }: { column: Column }) {
  const [typed, setTyped] = useState("");
  const id = useId();
  const names = usable.value.map((one) => one.id);
  const add = (event: Event) => {
    event.preventDefault();
    const name = typed.trim();
    if (!name) return;
    addUse(column.id, name, ownCoefficient(name));
    setTyped("");
  };
  // A whole name that is chosen from the list needs no second step.
  const take = (event: InputEvent & { currentTarget: HTMLInputElement }) => {
    const text = event.currentTarget.value;
    const wasChosen = !event.inputType || event.inputType === "insertReplacementText";
    if (!wasChosen || !vectorOf(text)) return setTyped(text);
    addUse(column.id, text, ownCoefficient(text));
    // The state may have been empty all along, and then nothing is rendered anew.
    event.currentTarget.value = "";
    setTyped("");
  };
  if (names.length === 0 && !vectorsProblem.value) {
    return (
      <p class="sliders-none">
        {words.sliders.noVectors}{" "}
        <button type="button" class="link" onClick={() => show("make")}>
          {words.views.make}
        </button>
      </p>
    );
  }
  return (
    <form class="add-vector" onSubmit={add}>
      <label for={id} class="unseen">
        {words.sliders.add}
      </label>
      <input
        id={id}
        list={`${id}-names`}
        value={typed}
        placeholder={words.sliders.add}
        autocomplete="off"
        spellcheck={false}
        onInput={take}
      />
      <datalist id={`${id}-names`}>
        {names.map((name) => (
          <option key={name} value={name} />
        ))}
      </datalist>
      <button type="submit" class="square" aria-label={words.sliders.add} disabled={!typed.trim()}>
        <Icon name="plus" />
      </button>
    </form>
  );
}
