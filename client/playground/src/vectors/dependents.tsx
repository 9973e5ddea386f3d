import { isObject } from "../api/problem";
import type { Preset } from "../api/types";
import { presets } from "../state/server";
import { nameOf } from "../state/vectors";
import { words } from "../strings";

/** The presets that name a vector. */
export function dependentsOf(vector: string): Preset[] {
  return presets.value.filter((one) => idsOf(one.steering.vectors).some((id) => nameOf(id) === vector));
}

/** Lists them; nothing where there are none. */
export function Dependents({ vector }: { vector: string }) {
  const found = dependentsOf(vector);
  if (found.length === 0) return null;
  return (
    <div class="dependents">
      <p>{words.vectors.dependents}</p>
      <ul>
        {found.map((one) => (
          <li key={one.name}>{one.name}</li>
        ))}
      </ul>
    </div>
  );
}

function idsOf(vectors: unknown): string[] {
  if (Array.isArray(vectors)) return vectors.filter(isObject).map((use) => String(use.id));
  return isObject(vectors) ? Object.keys(vectors) : [];
}
