import { addUse, type Column } from "../../state/compare/columns";
import { ownCoefficient, usable, vectorsProblem } from "../../state/vectors";
import { show } from "../../state/view";
import { words } from "../../strings";
import { VectorPicker } from "./vector_picker";

/** Puts one more vector into the mix. */
export function AddVector({ column }: { column: Column }) {
  if (usable.value.length === 0 && !vectorsProblem.value) {
    return (
      <p class="sliders-none">
        {words.sliders.noVectors}{" "}
        <button type="button" class="link" onClick={() => show("make")}>
          {words.views.make}
        </button>
      </p>
    );
  }
  return <VectorPicker label={words.sliders.add} onPick={(name) => addUse(column.id, name, ownCoefficient(name))} />;
}
