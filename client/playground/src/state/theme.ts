import { effect, signal } from "@preact/signals";

export type Theme = "light" | "dark";

/** Null: as the system has it. */
export const theme = signal<Theme | null>(null);

export const systemIsDark = (): boolean => matchMedia("(prefers-color-scheme: dark)").matches;

export function toggleTheme(): void {
  const now = theme.value ?? (systemIsDark() ? "dark" : "light");
  theme.value = now === "dark" ? "light" : "dark";
}

effect(() => {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
  else delete document.documentElement.dataset.theme;
});
