import { usable } from "../../state/vectors";

const LIST = "vector-names";

/** What an input needs that proposes the names of vectors. */
export const proposes = { list: LIST, autocomplete: "off", spellcheck: false } as const;

/** The names of all vectors that fit, once on a view, however many of its inputs propose them. */
export function VectorNames() {
  return (
    <datalist id={LIST}>
      {usable.value.map((one) => (
        <option key={one.id} value={one.id} />
      ))}
    </datalist>
  );
}
