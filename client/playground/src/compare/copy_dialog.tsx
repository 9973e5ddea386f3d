import { useRef, useState } from "preact/hooks";

import { SERVER_URL } from "../api/http";
import { CopyButton } from "../parts/copy_button";
import { Dialog } from "../parts/dialog";
import { Tabs } from "../parts/tabs";
import type { Column } from "../state/compare/columns";
import { draft, requestOf, turns } from "../state/compare/conversation";
import { key } from "../state/key";
import { linkToState } from "../state/compare/link";
import { model } from "../state/server";
import { asCurl, asJson, asPython } from "../steering/copies";
import { modelName } from "../steering/model_name";
import { words } from "../strings";
import { titleOf } from "./column_title";

const FORMS = ["curl", "python", "model", "json", "link"] as const;
type Form = (typeof FORMS)[number];
const PANEL = "copy-panel";

/** The column's request as something to take along. */
export function CopyDialog({ column, onClose }: { column: Column; onClose: () => void }) {
  const [form, setForm] = useState<Form>("curl");
  const [refused, setRefused] = useState(false);
  const shownText = useRef<HTMLPreElement>(null);
  const text = textOf(form, column);
  const select = () => {
    setRefused(true);
    getSelection()?.selectAllChildren(shownText.current!);
  };
  const hints = [hintOf(form, text, column), key.value && form !== "link" ? words.copyAs.keyHint : null, refused ? words.copyAs.select : null];
  return (
    <Dialog title={words.copyAs.title(titleOf(column))} onClose={onClose}>
      <Tabs
        label={words.copyAs.open}
        tabs={FORMS.map((one) => [one, words.copyAs[one]] as const)}
        value={form}
        panel={PANEL}
        onChange={(next) => setForm(next as Form)}
      />
      <div id={PANEL} role="tabpanel" aria-labelledby={`${PANEL}-${form}`} class="stack">
        {text !== null && (
          <pre ref={shownText} tabIndex={0} class="copy-text">
            {text}
          </pre>
        )}
        {hints.map((hint) => hint && <p key={hint} class="field-hint">{hint}</p>)}
        {text !== null && <CopyButton text={() => text} onRefused={select} />}
      </div>
    </Dialog>
  );
}

function textOf(form: Form, column: Column): string | null {
  const last = turns.value[turns.value.length - 1];
  const said = draft.value.trim() || last?.said || words.compare.firstMessage;
  const before = draft.value.trim() ? turns.value : turns.value.slice(0, -1);
  const body = requestOf(column.mix, column.id, before, said);
  switch (form) {
    case "curl":
      return asCurl(body, SERVER_URL, key.value !== "");
    case "python":
      return asPython(body, SERVER_URL, key.value !== "");
    case "json":
      return asJson(body);
    case "model":
      return modelName(model.value, column.mix);
    case "link":
      return linkToState();
  }
}

function hintOf(form: Form, text: string | null, { mix }: Column): string | null {
  if (form === "link") return words.copyAs.linkHint;
  if (form === "model") return text !== null ? words.copyAs.modelHint : mix.reads.length > 0 ? words.copyAs.noModelReads : words.copyAs.noModel;
  return null;
}
