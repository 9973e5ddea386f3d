import { signal } from "@preact/signals";

/** Whether the last call got an answer from the server, of whatever kind. */
export const reachable = signal(true);
