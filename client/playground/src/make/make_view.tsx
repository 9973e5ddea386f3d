import { useEffect } from "preact/hooks";

import { watchJobs } from "../state/jobs";
import { boundTo } from "../state/server";
import { ExtractForm } from "./extract_form";
import { JobList } from "./job_list";
import { SweepForm } from "./sweep_form";

/** Makes vectors of texts, and finds out how strongly they may be used. */
export function MakeView() {
  useEffect(() => void watchJobs(), []);
  return (
    <div class="make">
      <ExtractForm />
      <div class="make-side">
        <JobList />
        {boundTo.value === null && <SweepForm />}
      </div>
    </div>
  );
}
