import { Field, NumberInput } from "../parts/fields";
import { Icon } from "../parts/icon";
import { answersAgain, clear, draft, replay, running, sampling, send, stop, turns, type Sampling } from "../state/compare/conversation";
import { words } from "../strings";

/** Where the next message is written, and how answers are sampled. */
export function Composer() {
  const unanswered = turns.value.some((turn) => turn.answers.size === 0);
  const submit = (event: Event) => {
    event.preventDefault();
    if (!running.value) send();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    submit(event);
  };
  return (
    <form class="composer" onSubmit={submit}>
      {unanswered && (
        <div class="row composer-replay">
          <p>{words.compare.replayHint}</p>
          <button type="button" class="primary" onClick={() => void replay()}>
            {words.compare.replay}
          </button>
        </div>
      )}
      <div class="composer-line">
        <textarea
          aria-label={words.compare.message}
          placeholder={words.compare.placeholder}
          rows={2}
          value={draft.value}
          onInput={(event) => (draft.value = event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        {running.value ? (
          <button type="button" class="primary" onClick={stop}>
            <Icon name="stop" />
            {words.compare.stop}
          </button>
        ) : (
          <button type="submit" class="primary" disabled={!draft.value.trim()}>
            <Icon name="send" />
            {words.compare.send}
          </button>
        )}
      </div>
      <div class="composer-foot">
        <SamplingFields />
        <label class="check">
          <input type="checkbox" checked={answersAgain.value} onChange={(event) => (answersAgain.value = event.currentTarget.checked)} />
          {words.compare.againAll}
        </label>
        {turns.value.length > 0 && (
          <button type="button" class="quiet" onClick={clear}>
            {words.compare.clear}
          </button>
        )}
      </div>
    </form>
  );
}

function SamplingFields() {
  const { seed, temperature, max_tokens } = sampling.value;
  const set = (change: Partial<Sampling>) => (sampling.value = { ...sampling.value, ...change });
  return (
    <fieldset class="sampling">
      <legend class="unseen">{words.compare.sampling}</legend>
      <Field label={words.compare.seed}>
        {(id) => <NumberInput id={id} value={seed} step={1} min={0} onChange={(value) => set({ seed: Math.round(value) })} />}
      </Field>
      <Field label={words.compare.temperature}>
        {(id) => <NumberInput id={id} value={temperature} min={0} max={2} step={0.1} onChange={(value) => set({ temperature: value })} />}
      </Field>
      <Field label={words.compare.maxTokens}>
        {(id) => <NumberInput id={id} value={max_tokens} min={1} step={1} onChange={(value) => set({ max_tokens: Math.round(value) })} />}
      </Field>
    </fieldset>
  );
}
