import type { GateReceipt, Receipt, VectorReceipt } from "../api/types";
import { CopyButton } from "../parts/copy_button";
import { writeLayers } from "../steering/layers";
import { counted, shown, words } from "../strings";
import { ReadsTable } from "./reads_table";

/** What the server says that it did. */
export function ReceiptView({ receipt }: { receipt: Receipt }) {
  const notes = [
    receipt.preset ? words.receipt.preset(receipt.preset) : null,
    receipt.source ? words.receipt.source(receipt.source) : null,
  ].filter(Boolean);
  return (
    <details class="receipt">
      <summary>
        {words.receipt.title} · <span class="receipt-sum">{summaryOf(receipt)}</span>
      </summary>
      <p class="field-hint">{words.receipt.what}</p>
      {receipt.vectors.length > 0 && <VectorsTable vectors={receipt.vectors} />}
      {receipt.reads && receipt.reads.length > 0 && <ReadsTable reads={receipt.reads} />}
      {receipt.note && <p class="receipt-note">{receipt.note}</p>}
      <div class="row">
        <p class="field-hint">{notes.join(" · ")}</p>
        <CopyButton text={() => JSON.stringify(receipt, null, 2)} label={words.receipt.json} />
      </div>
    </details>
  );
}

function VectorsTable({ vectors }: { vectors: VectorReceipt[] }) {
  return (
    <div class="receipt-scroll" tabIndex={0} role="region" aria-label={words.receipt.title}>
      <table>
        <thead>
          <tr>
            <th scope="col">{words.receipt.vector}</th>
            <th scope="col" class="num">{words.receipt.coefficient}</th>
            <th scope="col">{words.receipt.layers}</th>
            <th scope="col" class="num">{words.receipt.dose}</th>
            <th scope="col" class="num">{words.receipt.tokens}</th>
          </tr>
        </thead>
        <tbody>
          {vectors.map((one, n) => (
            <VectorRow key={n} vector={one} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function VectorRow({ vector }: { vector: VectorReceipt }) {
  const outside = vector.outside_safe_range === true;
  return (
    <tr>
      <td>
        {vector.id} <code>{vector.digest.replace("sha256:", "").slice(0, 12)}</code>
        {outside && <span class="mark-warn">{words.receipt.outside}</span>}
        {vector.gate && <span class="receipt-gate">{gateOf(vector.gate)}</span>}
        {vector.base_model_matches === false && <span class="mark-warn">{words.receipt.otherModel}</span>}
      </td>
      <td class="num">{shown(vector.coefficient)}</td>
      <td>{writeLayers(vector.layers)}</td>
      <td class="num">{doseOf(vector)}</td>
      <td class="num">{vector.steered_tokens === undefined ? "" : counted(vector.steered_tokens)}</td>
    </tr>
  );
}

function doseOf(vector: VectorReceipt): string {
  if (vector.total_dose != null) return shown(vector.total_dose);
  if (!vector.relative_dose) return "–";
  return shown(Object.values(vector.relative_dose).reduce((sum, dose) => sum + dose, 0));
}

function gateOf({ id, over, tokens, passed_tokens, passed, value }: GateReceipt): string {
  const w = words.gates;
  if (over === "token") return w.passed(id, passed_tokens, tokens);
  return passed == null ? w.undecided(id) : w.decided(id, passed, value == null ? "" : shown(value));
}

function summaryOf(receipt: Receipt): string {
  const parts: string[] = [];
  if (receipt.vectors.length > 0) {
    parts.push(words.receipt.steered(Math.max(0, ...receipt.vectors.map((one) => one.steered_tokens ?? 0))));
  }
  const lists = (receipt.reads ?? []).flatMap((one) => Object.values(one.values));
  if (lists.length > 0) parts.push(words.reads.count(lists.reduce((sum, one) => sum + one.length, 0)));
  return parts.join(" · ");
}
