import { useRef } from "preact/hooks";

interface Props {
  label: string;
  tabs: readonly (readonly [id: string, text: string])[];
  value: string;
  onChange: (id: string) => void;
  panel: string;
}

/** A tab list: arrow keys move, as readers expect. */
export function Tabs({ label, tabs, value, onChange, panel }: Props) {
  const list = useRef<HTMLDivElement>(null);
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = tabs.findIndex(([id]) => id === value);
    const next = (at + step + tabs.length) % tabs.length;
    onChange(tabs[next]![0]);
    (list.current?.children[next] as HTMLElement | undefined)?.focus();
    event.preventDefault();
  };
  return (
    <div class="tabs" role="tablist" aria-label={label} ref={list} onKeyDown={move}>
      {tabs.map(([id, text]) => (
        <button
          key={id}
          type="button"
          role="tab"
          id={`${panel}-${id}`}
          aria-selected={id === value}
          aria-controls={panel}
          tabIndex={id === value ? 0 : -1}
          onClick={() => onChange(id)}
        >
          {text}
        </button>
      ))}
    </div>
  );
}
