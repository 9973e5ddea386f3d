import { effect } from "@preact/signals";

import { theme } from "../state/theme";

/** The page's colours for what is drawn on a canvas, which knows no CSS. */
export function colours(): { ink: string; line: string; series: string[]; font: string } {
  const series = Array.from({ length: 8 }, (_, n) => resolved(`--series-${n}`));
  return { ink: resolved("--ink-2"), line: resolved("--line"), series, font: "11px Inter Variable, system-ui, sans-serif" };
}

/** Call `redraw` when the colours have changed, by the button or by the system. Returns what ends that. */
export function whenColoursChange(redraw: () => void): () => void {
  let first = true;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stop = effect(() => {
    void theme.value;
    // Effects run in order: the one that sets the theme may come behind this.
    if (!first) queueMicrotask(redraw);
    first = false;
  });
  system.addEventListener("change", redraw);
  return () => {
    stop();
    system.removeEventListener("change", redraw);
  };
}

/** light-dark() and var() become a colour only where they are used. */
function resolved(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
