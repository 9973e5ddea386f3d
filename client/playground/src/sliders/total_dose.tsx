import { useLayoutEffect, useRef } from "preact/hooks";

import { capabilities } from "../state/server";
import { vectorOf, wholeVectorOf } from "../state/vectors";
import { adds, doseOf } from "../steering/dose";
import type { Mix } from "../steering/mix";
import { shown, words } from "../strings";
import { FULL_DOSE } from "./dose_bar";

/** The sum of the doses of all vectors, each in its colour, and the server's limit. */
export function TotalDose({ mix }: { mix: Mix }) {
  const track = useRef<HTMLSpanElement>(null);
  const medians = capabilities.value?.median_norms ?? null;
  // What does not add has no dose; what adds and is not known yet makes the sum unknown.
  const doses = mix.uses.map((use) => (adds(use, vectorOf(use.id)) ? doseOf(use, wholeVectorOf(use.id), medians) : 0));
  const total = doses.reduce<number | null>((sum, dose) => (sum === null || dose === null ? null : sum + dose), 0);
  const limit = capabilities.value?.limits.max_total_dose ?? null;
  const full = Math.max(FULL_DOSE, total ?? 0, limit ?? 0);
  useLayoutEffect(() => {
    [...track.current!.children].forEach((part, n) => {
      (part as HTMLElement).style.setProperty("--share", String((doses[n] ?? 0) / full));
    });
  });
  return (
    <p class={limit !== null && total !== null && total > limit ? "dose total is-over" : "dose total"} title={words.sliders.doseHint}>
      <span class="dose-label">{words.sliders.total}</span>
      <span class="dose-track" aria-hidden="true" ref={track}>
        {mix.uses.map((use, n) => (
          <span key={use.key} class="dose-fill" data-series={n % 8} />
        ))}
      </span>
      <span class="dose-value">
        {total === null ? words.sliders.unknownDose : shown(total)}
        {limit !== null && <span class="dose-limit">{words.sliders.limit(limit)}</span>}
      </span>
    </p>
  );
}
