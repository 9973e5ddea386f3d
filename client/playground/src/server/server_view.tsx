import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";

import { capabilities } from "../state/server";
import { metrics, ready, watchServer } from "../state/watch_server";
import { counted, shown, words } from "../strings";
import { Rejections } from "./rejections";

/** What the server can do, and what it does now. */
export function ServerView() {
  useEffect(watchServer, []);
  return (
    <div class="server">
      <Serves />
      <Now />
      <Rejections />
      <Limits />
    </div>
  );
}

function Serves() {
  const w = words.server;
  const c = capabilities.value!;
  const site = (name: string) => (c.aliases.includes(name) ? `${name} (= resid_post)` : name);
  return (
    <section class="server-part" aria-label={w.what}>
      <h2>{w.what}</h2>
      <dl class="facts">
        <Fact name={w.model}>{c.model}</Fact>
        <Fact name={w.version}>{c.version}</Fact>
        <Fact name={w.layers}>{counted(c.num_layers)}</Fact>
        <Fact name={w.width}>{counted(c.hidden_size)}</Fact>
        <Fact name={w.sites}>{[...new Set([...c.sites, ...c.aliases])].map(site).join(", ")}</Fact>
        {(c.operations ?? []).length > 1 && <Fact name={w.operations}>{c.operations!.join(", ")}</Fact>}
        <Fact name={w.positions}>{(c.positions ?? []).join(", ")}</Fact>
        <Fact name={w.schedules}>{(c.schedules ?? []).join(", ")}</Fact>
        {c.gates && <Fact name={w.gates}>{c.gates.measures.join(", ")}</Fact>}
        {c.reads && <Fact name={w.reads}>{c.reads.measures.join(", ")}</Fact>}
        {c.dynamic && <Fact name={w.dynamic}>{w.dynamicUpTo(c.dynamic.max_vectors)}</Fact>}
        {c.default_preset && <Fact name={w.defaultPreset}>{c.default_preset.preset}</Fact>}
        <Fact name={w.safeRange}>{c.enforce_safe_range ? w.on : w.off}</Fact>
        <Fact name={w.fingerprintRequired}>{c.require_fingerprint ? w.on : w.off}</Fact>
        {c.fingerprint && (
          <Fact name={w.fingerprint}>
            <code>{c.fingerprint}</code>
          </Fact>
        )}
      </dl>
    </section>
  );
}

function Now() {
  const w = words.server;
  const found = metrics.value;
  const value = (name: string) => found?.get(name) ?? 0;
  const sum = (name: string) => [...(found ?? [])].reduce((total, [key, one]) => (key.startsWith(`${name}{`) ? total + one : total), 0);
  const state = ready.value;
  return (
    <section class="server-part" aria-label={w.now}>
      <h2>
        {w.now}
        <span class={state?.status === "ready" ? "badge" : "badge is-bad"} role="status">
          {state?.status === "ready" ? w.ready : w.notReady}
        </span>
      </h2>
      {state?.degraded?.map((one) => (
        <p key={one} class="problem">
          {one}
        </p>
      ))}
      {found === null ? (
        <p class="field-hint">{w.noMetrics}</p>
      ) : (
        <>
          <p class="rows-used">
            <span>{w.rows}</span>
            <span>{w.rowsOf(value("bank_rows_used"), value("bank_rows_total"))}</span>
          </p>
          <p class="field-hint">{w.rowsHint}</p>
          <meter min={0} max={value("bank_rows_total") || 1} value={value("bank_rows_used")} aria-label={w.rows} />
          <dl class="facts">
            <Fact name={w.waiting}>{counted(sum("waiting"))}</Fact>
            <Fact name={w.companions}>{counted(value("companion_streams"))}</Fact>
            <Fact name={w.jobsRunning}>{counted(sum("jobs"))}</Fact>
            <Fact name={w.resident}>{counted(value("resident_vectors"))}</Fact>
            <Fact name={w.library}>{counted(value("library_vectors"))}</Fact>
            <Fact name={w.steered}>{counted(value("tokens_total"))}</Fact>
          </dl>
        </>
      )}
    </section>
  );
}

function Limits() {
  const w = words.server;
  const limits = Object.entries(capabilities.value!.limits);
  return (
    <section class="server-part" aria-label={w.limits}>
      <h2>{w.limits}</h2>
      <table>
        <thead>
          <tr>
            <th scope="col">{w.limit}</th>
            <th scope="col" class="num">
              {w.value}
            </th>
          </tr>
        </thead>
        <tbody>
          {limits.map(([name, value]) => (
            <tr key={name}>
              <td>{name.replaceAll("_", " ")}</td>
              <td class="num">{value === null ? w.none : shown(value)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
