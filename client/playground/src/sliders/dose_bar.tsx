import { useLayoutEffect, useRef } from "preact/hooks";

import { shown, words } from "../strings";

/** The dose at which a bar is full: what is added is then as long as the stream itself. */
export const FULL_DOSE = 1;

/** A relative dose as a bar. */
export function DoseBar({ label, dose }: { label: string; dose: number | null }) {
  const bar = useRef<HTMLSpanElement>(null);
  useLayoutEffect(() => {
    bar.current?.style.setProperty("--share", String(Math.min(1, (dose ?? 0) / FULL_DOSE)));
  });
  return (
    <p class="dose" title={words.sliders.doseHint}>
      <span class="dose-label">{label}</span>
      <span class="dose-track" aria-hidden="true">
        <span class="dose-fill" ref={bar} />
      </span>
      <span class="dose-value">{dose === null ? words.sliders.unknownDose : shown(dose)}</span>
    </p>
  );
}
