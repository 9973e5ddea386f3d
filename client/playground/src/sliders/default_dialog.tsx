import { CopyButton } from "../parts/copy_button";
import { Dialog } from "../parts/dialog";
import { capabilities, model } from "../state/server";
import { words } from "../strings";

/**
 * How a preset steers requests that do not say how. A default is the operator's, an option or a line of the keys file,
 * so this shows what to write there: no page changes what others get.
 */
export function DefaultDialog({ preset, onClose }: { preset: string; onClose: () => void }) {
  const w = words.presets;
  const now = capabilities.value?.default_preset;
  const whose = now?.source === "key" ? w.ofKey : w.ofServer;
  const ways: [string, string][] = [
    [w.forServer, `--default-preset ${preset}`],
    [w.forKey, `preset: ${preset}`],
    [w.forProgram, `${model.value}:${preset}`],
  ];
  return (
    <Dialog title={w.defaultTitle(preset)} onClose={onClose}>
      <p>{!now ? w.noDefault : now.preset === preset ? w.isDefaultNow(whose) : w.otherDefault(now.preset, whose)}</p>
      <p class="field-hint">{w.defaultWhy}</p>
      {ways.map(([name, text]) => (
        <div key={name} class="default-way">
          <h3>{name}</h3>
          <pre class="copy-text" tabIndex={0}>
            {text}
          </pre>
          <CopyButton text={() => text} />
        </div>
      ))}
      <p class="field-hint">{w.defaultOff}</p>
    </Dialog>
  );
}
