import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

import type { Vector } from "../api/types";
import { Icon } from "../parts/icon";
import { addUse, selected } from "../state/compare/columns";
import { boundTo } from "../state/server";
import { show } from "../state/view";
import { writeLayers } from "../steering/layers";
import { kindOf } from "../steering/positions";
import { bytes, shown, words } from "../strings";
import { DeleteDialog } from "./delete_dialog";
import { DefaultsForm } from "./defaults_form";
import { InspectionView } from "./inspection_view";
import { RenameDialog } from "./rename_dialog";

interface Props {
  vector: Vector;
  /** The name that is shown from now on; null: none, it is deleted. */
  onMoved: (id: string | null) => void;
}

/** One vector: what it is, what can be done with it, and what is inside. */
export function VectorPage({ vector, onMoved }: Props) {
  const [asks, setAsks] = useState<"edit" | "rename" | "delete" | null>(null);
  const close = () => setAsks(null);
  const use = () => {
    addUse(selected.value.id, vector.id, vector.coefficient);
    show("compare");
  };
  return (
    <article class="vector">
      <header class="vector-head">
        <h2>{vector.id}</h2>
        <div class="row">
          {boundTo.value === null && (
            <button type="button" class="primary" disabled={!vector.fits} onClick={use}>
              {words.vectors.use}
            </button>
          )}
          <button type="button" onClick={() => setAsks(asks === "edit" ? null : "edit")} aria-expanded={asks === "edit"}>
            <Icon name="edit" />
            {words.vectors.edit}
          </button>
          <button type="button" onClick={() => setAsks("rename")}>
            {words.vectors.rename}
          </button>
          <button type="button" class="danger" onClick={() => setAsks("delete")}>
            <Icon name="trash" />
            {words.vectors.remove}
          </button>
        </div>
      </header>
      <p class="vector-description">{vector.description || words.vectors.noDescription}</p>
      {vector.misfit && <p class="problem">{vector.misfit}</p>}
      {asks === "edit" && <DefaultsForm vector={vector} onDone={close} />}
      <Facts vector={vector} />
      {vector.fits && <InspectionView id={vector.id} />}
      {asks === "rename" && <RenameDialog vector={vector} onClose={close} onRenamed={onMoved} />}
      {asks === "delete" && <DeleteDialog vector={vector} onClose={close} onDeleted={() => onMoved(null)} />}
    </article>
  );
}

function Facts({ vector }: { vector: Vector }) {
  const w = words.vectors;
  const positions = kindOf(vector.positions);
  return (
    <dl class="facts">
      <Fact name={w.coefficient}>{shown(vector.coefficient)}</Fact>
      <Fact name={w.safeRange}>
        {vector.safe_range ? w.range(...vector.safe_range) : w.noSafeRange}
      </Fact>
      <Fact name={w.layers}>{writeLayers(vector.layers)}</Fact>
      <Fact name={w.positions}>{words.sliders.positionNames[positions] ?? positions}</Fact>
      {vector.method && <Fact name={w.method}>{vector.method}</Fact>}
      {vector.base_model?.id && (
        <Fact name={w.model}>
          {vector.base_model.id}
          {vector.base_model_matches === false && <span class="mark-warn">{w.anotherModel}</span>}
        </Fact>
      )}
      <Fact name={w.digest}>
        <code>{vector.digest.replace("sha256:", "").slice(0, 12)}</code> {w.versions(vector.versions.length)}
      </Fact>
      <Fact name={w.size}>{bytes(vector.bytes)}</Fact>
      {vector.licence && <Fact name={w.licence}>{vector.licence}</Fact>}
    </dl>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
