import { useEffect } from "preact/hooks";

import { isAlive } from "../api/http";
import { reachable } from "../state/reachable";
import { words } from "../strings";

const EVERY_MS = 3000;

/** Says that the server does not answer, and asks it until it does. */
export function ServerAway() {
  const away = !reachable.value;
  useEffect(() => {
    if (!away) return undefined;
    const timer = setInterval(() => void isAlive(), EVERY_MS);
    return () => clearInterval(timer);
  }, [away]);
  return (
    <div role="status" class={away ? "away" : "away-none"}>
      {away ? words.errors.away : ""}
    </div>
  );
}
