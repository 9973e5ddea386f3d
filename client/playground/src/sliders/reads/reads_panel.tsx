import { addRead, type Column } from "../../state/compare/columns";
import { capabilities } from "../../state/server";
import { words } from "../../strings";
import { VectorPicker } from "../names/vector_picker";
import { ReadRow } from "./read_row";

/** What is read of the stream in this column. Nothing on a server that does not read. */
export function ReadsPanel({ column }: { column: Column }) {
  const served = capabilities.value?.reads;
  if (!served) return null;
  const { reads } = column.mix;
  return (
    <details class="reads" open={reads.length > 0 || undefined}>
      <summary>{words.reads.title}</summary>
      <div class="stack">
        <p class="field-hint">{words.reads.hint}</p>
        {reads.map((read) => (
          <ReadRow key={read.key} column={column} read={read} measures={served.measures} tokens={served.tokens} />
        ))}
        <VectorPicker label={words.reads.add} onPick={(id) => addRead(column.id, id)} />
      </div>
    </details>
  );
}
