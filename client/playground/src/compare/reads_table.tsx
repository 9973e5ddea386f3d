import type { ReadPart } from "../api/types";
import { counted, shown, words } from "../strings";

/** What was read, in short: each vector and layer with the mean of its values, and their ends. */
export function ReadsTable({ reads }: { reads: ReadPart[] }) {
  const w = words.reads;
  const rows = reads.flatMap((read) => Object.entries(read.values).map(([place, values]) => ({ read, place, values })));
  return (
    <div class="receipt-scroll" tabIndex={0} role="region" aria-label={w.title}>
      <table>
        <thead>
          <tr>
            <th scope="col">{w.vector}</th>
            <th scope="col">{w.place}</th>
            <th scope="col">{w.tokens}</th>
            {[w.mean, w.least, w.most, w.values].map((name) => (
              <th key={name} scope="col" class="num">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(({ read, place, values }, n) => (
            <tr key={n}>
              <td>
                {read.id} <span class="receipt-gate">{w.measureNames[read.measure] ?? read.measure}</span>
              </td>
              <td>{place}</td>
              <td>{w.tokenNames[read.tokens] ?? read.tokens}</td>
              {numbersOf(values).map((value, column) => (
                <td key={column} class="num">
                  {value === null ? "–" : shown(value)}
                </td>
              ))}
              <td class="num">{counted(values.length)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Mean, least and most; null each where there is no value. */
function numbersOf(values: readonly number[]): (number | null)[] {
  if (values.length === 0) return [null, null, null];
  const mean = values.reduce((sum, one) => sum + one, 0) / values.length;
  const ends = values.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)] as [number, number], [Infinity, -Infinity] as [number, number]);
  return [mean, ...ends];
}
