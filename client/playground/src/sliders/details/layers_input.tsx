import { useState } from "preact/hooks";

import { Field } from "../../parts/fields";
import { capabilities } from "../../state/server";
import { readLayers, writeLayers } from "../../steering/layers";
import { words } from "../../strings";

interface Props {
  layers: readonly number[] | null;
  own: readonly number[];
  onChange: (layers: number[] | null) => void;
}

/** Layers as text; empty: the vector's own. */
export function LayersInput({ layers, own, onChange }: Props) {
  const count = capabilities.value?.num_layers ?? 0;
  const [typed, setTyped] = useState<string | null>(null);
  const wrong = typed !== null && typed.trim() !== "" && readLayers(typed, count) === null;
  const take = (text: string) => {
    setTyped(text);
    if (text.trim() === "") return onChange(null);
    const read = readLayers(text, count);
    if (read) onChange(read);
  };
  return (
    <Field
      label={words.sliders.layers}
      hint={words.sliders.layersHint(count)}
      error={wrong ? words.sliders.layersWrong(count) : null}
    >
      {(id, describedBy) => (
        <input
          id={id}
          inputMode="numeric"
          autocomplete="off"
          aria-describedby={describedBy}
          aria-invalid={wrong}
          placeholder={words.sliders.own(writeLayers(own))}
          value={typed ?? (layers ? writeLayers(layers) : "")}
          onInput={(event) => take(event.currentTarget.value)}
          onBlur={() => !wrong && setTyped(null)}
        />
      )}
    </Field>
  );
}
