import { useState } from "preact/hooks";

import { Field } from "../parts/fields";
import { ProblemNote } from "../parts/problem_note";
import { vectors, vectorsProblem } from "../state/vectors";
import { words } from "../strings";
import { UploadForm } from "./upload_form";
import { VectorList } from "./vector_list";
import { VectorPage } from "./vector_page";

/** The library: a list to search, and one vector of it. */
export function VectorsView() {
  const [sought, setSought] = useState("");
  const [chosen, setChosen] = useState<string | null>(null);
  const all = [...vectors.value.values()];
  const needle = sought.trim().toLowerCase();
  const found = all.filter((one) => `${one.id}\n${one.description}`.toLowerCase().includes(needle));
  const vector = chosen === null ? undefined : vectors.value.get(chosen);
  return (
    <div class="library">
      <section class="library-list" aria-label={words.vectors.list}>
        <h2>{words.vectors.title}</h2>
        <Field label={words.vectors.search}>
          {(id) => (
            <input
              id={id}
              type="search"
              placeholder={words.vectors.searchHint}
              value={sought}
              onInput={(event) => setSought(event.currentTarget.value)}
            />
          )}
        </Field>
        <p class="field-hint" role="status">
          {words.vectors.count(found.length, all.length)}
        </p>
        {vectorsProblem.value && <ProblemNote problem={vectorsProblem.value} />}
        {all.length > 0 && found.length === 0 && <p>{words.vectors.nothing}</p>}
        <VectorList vectors={found} chosen={chosen} onChoose={setChosen} />
        <UploadForm onUploaded={setChosen} />
      </section>
      <section class="library-one">
        {vector ? (
          <VectorPage key={vector.digest} vector={vector} onMoved={setChosen} />
        ) : (
          <p class="library-none">{all.length === 0 ? words.vectors.none : words.vectors.pick}</p>
        )}
      </section>
    </div>
  );
}
