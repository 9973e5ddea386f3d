import { effect, signal } from "@preact/signals";

const KEPT = "steersman.key";

/** The API key: in memory, and in this tab's session storage if the user says so. */
export const key = signal(read());
export const keyKept = signal(key.value !== "");
/** Whether the server has refused a call for want of a key. */
export const keyNeeded = signal(false);

effect(() => {
  try {
    if (keyKept.value && key.value) sessionStorage.setItem(KEPT, key.value);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // Storage is switched off: the key stays in memory.
  }
});

function read(): string {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return "";
  }
}
