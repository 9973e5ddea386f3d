import { signal } from "@preact/signals";

export const VIEWS = ["compare", "vectors", "make", "server"] as const;
export type View = (typeof VIEWS)[number];

/** What is shown; the fragment of the address is the same. */
export const view = signal<View>(readView());

export function show(next: View): void {
  view.value = next;
  history.replaceState(null, "", next === "compare" ? location.pathname : `#${next}`);
}

export function readView(): View {
  const name = location.hash.slice(1);
  return VIEWS.find((one) => one === name) ?? "compare";
}
