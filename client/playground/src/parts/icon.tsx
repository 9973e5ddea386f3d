const PATHS = {
  close: "M5 5l10 10M15 5L5 15",
  plus: "M10 4v12M4 10h12",
  send: "M10 16V4M5 9l5-5 5 5",
  stop: "M6 6h8v8H6z",
  edit: "M4 16l1-4 8-8 3 3-8 8-4 1zM11.500 5.500l3 3",
  again: "M15.500 8A6 6 0 1 0 16 11M16 4v4h-4",
  copy: "M7 7h9v9H7zM4 13V4h9",
  sun: "M10 2v2M10 16v2M2 10h2M16 10h2M4.300 4.300l1.400 1.400M14.300 14.300l1.400 1.400M4.300 15.700l1.400-1.400M14.300 5.700l1.400-1.400M13 10a3 3 0 1 1-6 0 3 3 0 0 1 6 0z",
  moon: "M16 12.500A7 7 0 0 1 7.500 4a6.500 6.500 0 1 0 8.500 8.500z",
  key: "M8 12a3.500 3.500 0 1 1 0-.01M10.500 9.500L17 3M14 6l2.500 2.500",
  up: "M10 14V4M6 8l4-4 4 4M4 16h12",
  trash: "M4 6h12M8 6V4h4v2M6 6l.7 10h6.600L14 6",
} as const;

/** A drawing beside words, or inside a button that has a name: nothing is read out. */
export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" width="18" height="18" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  );
}
