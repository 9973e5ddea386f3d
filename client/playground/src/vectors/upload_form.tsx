import { useRef, useState } from "preact/hooks";

import { uploadVector } from "../api/library";
import { Problem } from "../api/problem";
import { Field } from "../parts/fields";
import { Icon } from "../parts/icon";
import { ProblemNote } from "../parts/problem_note";
import { loadVectors } from "../state/vectors";
import { words } from "../strings";

const KINDS = [".safetensors", ".gguf"];

/** Takes a vector's file, dropped or chosen. */
export function UploadForm({ onUploaded }: { onUploaded: (id: string) => void }) {
  const [name, setName] = useState("");
  const [over, setOver] = useState(false);
  const [status, setStatus] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  const input = useRef<HTMLInputElement>(null);
  const take = async (file: File | undefined) => {
    if (!file) return;
    setProblem(null);
    if (!KINDS.some((kind) => file.name.toLowerCase().endsWith(kind))) {
      setProblem(new Problem(words.vectors.wrongKind(file.name), 0));
      return;
    }
    setStatus(words.vectors.uploading);
    try {
      const made = await uploadVector(file, file.name, name.trim() || null);
      await loadVectors();
      setStatus(words.vectors.uploaded(made.id));
      setName("");
      onUploaded(made.id);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setStatus("");
      setProblem(error);
    }
    if (input.current) input.current.value = "";
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    void take(event.dataTransfer?.files[0]);
  };
  return (
    <section class="upload" aria-label={words.vectors.upload}>
      <h3>{words.vectors.upload}</h3>
      <Field label={words.vectors.uploadName} hint={words.vectors.uploadNameHint}>
        {(id, describedBy) => (
          <input
            id={id}
            autocomplete="off"
            spellcheck={false}
            aria-describedby={describedBy}
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        )}
      </Field>
      <label
        class={over ? "drop is-over" : "drop"}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={drop}
      >
        <Icon name="up" />
        <span>{words.vectors.drop}</span>
        <input
          ref={input}
          type="file"
          class="unseen"
          accept={KINDS.join(",")}
          onChange={(event) => void take(event.currentTarget.files?.[0])}
        />
      </label>
      <p class="field-hint">{words.vectors.dropHint}</p>
      <p class="field-hint">{words.vectors.dropOthers}</p>
      <p role="status" class="upload-status">
        {status}
      </p>
      {problem && <ProblemNote problem={problem} />}
    </section>
  );
}
