import type { Vector } from "../api/types";
import { writeLayers } from "../steering/layers";
import { shown, words } from "../strings";

interface Props {
  vectors: readonly Vector[];
  chosen: string | null;
  onChoose: (id: string) => void;
}

export function VectorList({ vectors, chosen, onChoose }: Props) {
  return (
    <ul class="vector-list">
      {vectors.map((one) => (
        <li key={one.id}>
          <button type="button" class="vector-item" aria-pressed={one.id === chosen} onClick={() => onChoose(one.id)}>
            <span class="vector-item-name">{one.id}</span>
            <span class="vector-item-facts">
              {one.fits ? words.vectors.item(shown(one.coefficient), writeLayers(one.layers)) : words.vectors.misfit}
            </span>
          </button>
        </li>
      ))}
    </ul>
  );
}
