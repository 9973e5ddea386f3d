import type { Receipt, VectorReceipt } from "../api/types";
import { CopyButton } from "../parts/copy_button";
import { writeLayers } from "../steering/layers";
import { counted, shown, words } from "../strings";

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
            {receipt.vectors.map((one, n) => (
              <VectorRow key={n} vector={one} />
            ))}
          </tbody>
        </table>
      </div>
      {receipt.note && <p class="receipt-note">{receipt.note}</p>}
      <div class="row">
        <p class="field-hint">{notes.join(" · ")}</p>
        <CopyButton text={() => JSON.stringify(receipt, null, 2)} label={words.receipt.json} />
      </div>
    </details>
  );
}

function VectorRow({ vector }: { vector: VectorReceipt }) {
  const outside = vector.outside_safe_range === true;
  return (
    <tr>
      <td>
        {vector.id} <code>{vector.digest.replace("sha256:", "").slice(0, 12)}</code>
        {outside && <span class="mark-warn">{words.receipt.outside}</span>}
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

function summaryOf(receipt: Receipt): string {
  const most = Math.max(0, ...receipt.vectors.map((one) => one.steered_tokens ?? 0));
  return words.receipt.steered(most);
}
