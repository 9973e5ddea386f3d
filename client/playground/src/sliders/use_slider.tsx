import { changeUse, removeUse, type Column } from "../state/compare/columns";
import { capabilities } from "../state/server";
import { vectorOf, wholeVectorOf } from "../state/vectors";
import { NumberInput } from "../parts/fields";
import { Icon } from "../parts/icon";
import { adds, doseOf } from "../steering/dose";
import type { Use } from "../steering/mix";
import { isOutside, scaleOf } from "../steering/scale";
import { words } from "../strings";
import { DoseBar } from "./dose_bar";
import { SafeTrack } from "./safe_track";
import { UseDetails } from "./details/use_details";

interface Props {
  column: Column;
  use: Use;
  /** Which of the charts' colours is this vector's. */
  series: number;
}

/** A row of the sliders: a vector's name, its coefficient on a track that shows the safe range, and its dose. */
export function UseSlider({ column, use, series }: Props) {
  const vector = vectorOf(use.id);
  const dynamic = column.mix.dynamic !== null;
  const scale = scaleOf(vector, use, dynamic);
  const outside = isOutside(use.coefficient, scale.safe);
  const dose = doseOf(use, wholeVectorOf(use.id), capabilities.value?.median_norms ?? null);
  const name = dynamic ? words.sliders.capOf(use.id) : words.sliders.coefficientOf(use.id);
  const change = (coefficient: number) => changeUse(column.id, use.key, { coefficient });
  const byList = use.schedule.kind === "list" && !dynamic;
  return (
    <li class={outside ? "use is-outside" : "use"} data-series={series % 8}>
      <div class="use-head">
        <span class="swatch" aria-hidden="true" />
        <span class="use-name" title={vector?.description || undefined}>
          {use.id}
        </span>
        {!byList && <NumberInput label={name} value={use.coefficient} step={scale.step} onChange={change} />}
        <button
          type="button"
          class="quiet square"
          aria-label={words.sliders.remove(use.id)}
          onClick={() => removeUse(column.id, use.key)}
        >
          <Icon name="close" />
        </button>
      </div>
      {!byList && <SafeTrack name={name} value={use.coefficient} scale={scale} onChange={change} />}
      {outside && <p class="use-warning">{words.sliders.outside}</p>}
      {adds(use, vector) && <DoseBar label={words.sliders.dose} dose={dose} />}
      <UseDetails column={column} use={use} vector={vector} />
    </li>
  );
}
