import { metrics, rejections } from "../state/watch_server";
import { counted, words } from "../strings";

/** What was refused, the newest first as far as this page saw it. */
export function Rejections() {
  const w = words.server;
  if (metrics.value === null) return null;
  const some = rejections.value.filter((one) => one.count > 0);
  return (
    <section class="server-part" aria-label={w.rejections}>
      <h2>{w.rejections}</h2>
      <p class="field-hint">{some.length > 0 ? w.rejectionsHint : w.noRejections}</p>
      {some.length > 0 && (
        <table>
          <thead>
            <tr>
              <th scope="col">{w.reason}</th>
              <th scope="col" class="num">
                {w.count}
              </th>
              <th scope="col" class="num">
                {w.last}
              </th>
            </tr>
          </thead>
          <tbody>
            {some.map((one) => (
              <tr key={one.reason}>
                <td>
                  <code>{one.reason}</code>
                </td>
                <td class="num">{counted(one.count)}</td>
                <td class="num">{one.last === null ? "" : w.ago((Date.now() - one.last) / 1000)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
