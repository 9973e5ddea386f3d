import { cancelJob } from "../api/jobs";
import type { Job } from "../api/types";
import { ProblemNote } from "../parts/problem_note";
import { addUse, selected } from "../state/compare/columns";
import { isOver, jobs, jobsProblem, watchJobs } from "../state/jobs";
import { boundTo } from "../state/server";
import { nameOf, ownCoefficient } from "../state/vectors";
import { show } from "../state/view";
import { words } from "../strings";
import { sweepVector } from "./sweep_state";

/** What is being made, and what was. */
export function JobList() {
  return (
    <section class="jobs" aria-label={words.make.jobs}>
      <h2>{words.make.jobs}</h2>
      {jobsProblem.value && <ProblemNote problem={jobsProblem.value} />}
      {jobs.value.length === 0 && <p class="field-hint">{words.make.noJobs}</p>}
      <ul class="stack">
        {jobs.value.slice(0, 8).map((job) => (
          <JobItem key={job.id} job={job} />
        ))}
      </ul>
    </section>
  );
}

function JobItem({ job }: { job: Job }) {
  const w = words.make;
  const { done, total, eta_s } = job.progress;
  return (
    <li class="job" data-status={job.status}>
      <p class="job-head">
        <strong>{job.name}</strong>
        <span>{w.methodNames[job.method] ?? job.method}</span>
        <span class="job-status" role="status">
          {job.status === "running" ? (w.phases[job.phase] ?? job.phase) : (w.statuses[job.status] ?? job.status)}
        </span>
      </p>
      {!isOver(job) && (
        <>
          <progress max={total || 1} value={total ? done : undefined} aria-label={job.name} />
          <p class="field-hint">
            {w.progress(done, total)}
            {eta_s !== null && ` · ${w.eta(eta_s)}`}
          </p>
          <button type="button" onClick={() => void cancelJob(job.id).then(watchJobs)}>
            {w.cancelJob}
          </button>
        </>
      )}
      {job.error?.message && <p class="problem">{job.error.message}</p>}
      {job.warnings.map((one) => (
        <p key={one.code} class="job-warning">
          {one.message}
        </p>
      ))}
      {job.bad_rows.length > 0 && (
        <details>
          <summary>{w.badRows(job.bad_rows.length)}</summary>
          <ul class="plain-list">
            {job.bad_rows.map((row, n) => (
              <li key={n}>{`${row.row} (${row.label}): ${row.reason}`}</li>
            ))}
          </ul>
        </details>
      )}
      {job.samples.length > 0 && <Samples job={job} />}
      {job.status === "succeeded" && boundTo.value === null && job.vectors.map(nameOf).map((id) => <Made key={id} id={id} />)}
    </li>
  );
}

function Samples({ job }: { job: Job }) {
  return (
    <details>
      <summary>{words.make.samples}</summary>
      <ul class="plain-list samples">
        {job.samples.map((one, n) => (
          <li key={n}>
            <span>
              {one.before}
              <mark>{one.token}</mark>
            </span>
            <span>{one.label}</span>
          </li>
        ))}
      </ul>
    </details>
  );
}

/** Straight on: to the sliders, or to the sweep. */
function Made({ id }: { id: string }) {
  const use = () => {
    addUse(selected.value.id, id, ownCoefficient(id));
    show("compare");
  };
  return (
    <div class="row">
      <button type="button" class="primary" onClick={use}>
        {words.make.use(id)}
      </button>
      <button type="button" onClick={() => (sweepVector.value = id)}>
        {words.make.sweepIt}
      </button>
    </div>
  );
}
