import type { Positions } from "../../api/types";
import { Field } from "../../parts/fields";
import { markerOf, readMarker, ruleOf, writeMarker, type Side } from "../../steering/positions";
import { words } from "../../strings";

interface Props {
  side: Side;
  positions: Positions | null;
  onChange: (next: Positions | null) => void;
}

/** The marker from which on, or up to which, tokens are steered. It is taken once it is whole. */
export function MarkerInput({ side, positions, onChange }: Props) {
  const marker = markerOf(positions, side);
  const take = (text: string) => {
    const next = readMarker(text);
    onChange(next === null ? null : ruleOf(side, next));
  };
  return (
    <Field label={words.sliders.marker} hint={marker === null ? words.sliders.markerMissing : words.sliders.markerHint}>
      {(id, note) => (
        <input
          id={id}
          autocomplete="off"
          spellcheck={false}
          aria-describedby={note}
          placeholder="</think>"
          value={marker === null ? "" : writeMarker(marker)}
          onChange={(event) => take(event.currentTarget.value)}
        />
      )}
    </Field>
  );
}
