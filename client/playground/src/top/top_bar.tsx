import { useState } from "preact/hooks";

import { Icon } from "../parts/icon";
import { key } from "../state/key";
import { model } from "../state/server";
import { systemIsDark, theme, toggleTheme } from "../state/theme";
import { VIEWS, show, view } from "../state/view";
import { words } from "../strings";
import { KeyDialog } from "./key_dialog";

/** The name, the views, the model, and what belongs to the reader: colours and the key. */
export function TopBar() {
  const [asksKey, setAsksKey] = useState(false);
  const dark = (theme.value ?? (systemIsDark() ? "dark" : "light")) === "dark";
  const themeName = dark ? words.top.light : words.top.dark;
  return (
    <header class="top">
      <a class="skip" href="#main" onClick={focusMain}>
        {words.top.skip}
      </a>
      <h1 class="wordmark">{words.title}</h1>
      <nav aria-label={words.top.navigation} class="views">
        {VIEWS.map((one) => (
          <button key={one} type="button" aria-current={view.value === one ? "page" : undefined} onClick={() => show(one)}>
            {words.views[one]}
          </button>
        ))}
      </nav>
      <p class="top-model" title={words.top.model}>
        {model}
      </p>
      <button type="button" class="quiet square" aria-label={themeName} title={themeName} onClick={toggleTheme}>
        <Icon name={dark ? "sun" : "moon"} />
      </button>
      <button type="button" class="quiet" onClick={() => setAsksKey(true)} title={words.key.title}>
        <Icon name="key" />
        <span class="top-key">{key.value ? words.top.keySet : words.top.key}</span>
      </button>
      {asksKey && <KeyDialog onClose={() => setAsksKey(false)} />}
    </header>
  );
}

function focusMain(event: MouseEvent): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}
