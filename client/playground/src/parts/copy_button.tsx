import { useEffect, useState } from "preact/hooks";

import { words } from "../strings";
import { Icon } from "./icon";

/** Copies `text()`. `onRefused` where the browser allows no copying, as on a page that came over plain HTTP. */
export function CopyButton({ text, label = words.copy, onRefused }: { text: () => string; label?: string; onRefused?: () => void }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), 2000);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      setCopied(true);
    } catch {
      onRefused?.();
    }
  };
  return (
    <button type="button" class="quiet" onClick={() => void copy()}>
      <Icon name="copy" />
      <span aria-live="polite">{copied ? words.copied : label}</span>
    </button>
  );
}
