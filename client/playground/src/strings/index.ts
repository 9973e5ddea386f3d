/** All words of the page, in one place. Sentences say what to do. */

import { compareWords } from "./compare";
import { steeringWords } from "./steering";
import { libraryWords } from "./library";
import { serverWords } from "./server";

export { bytes, counted, shown } from "./numbers";

export const words = {
  title: "Steersman",
  views: { compare: "Compare", vectors: "Vectors", make: "Make", server: "Server" },
  top: {
    skip: "Skip to the page",
    navigation: "Views",
    model: "Model",
    dark: "Dark colours",
    light: "Light colours",
    key: "Key",
    keySet: "Key is set",
  },
  close: "Close",
  cancel: "Cancel",
  copy: "Copy",
  copied: "Copied",
  loading: "Loading…",
  retry: "Try again",
  key: {
    title: "API key",
    why: "This server asks for a key. It is kept in this page's memory and sent to this server alone.",
    label: "Key",
    keep: "Keep it in this tab until the tab is closed",
    use: "Use this key",
    forget: "Forget it",
    wrong: "The server does not know this key.",
  },
  errors: {
    unreachable: "The server does not answer.",
    brokenOff: "The connection broke before the answer was complete.",
    status: (status: number) => `The server answered with status ${status}.`,
    start: "The page cannot show this server",
    away: "The server does not answer. This page stays as it is, and tries again.",
    back: "The server answers again.",
    at: (param: string) => `at ${param}`,
  },
  ...compareWords,
  ...steeringWords,
  ...libraryWords,
  ...serverWords,
} as const;
