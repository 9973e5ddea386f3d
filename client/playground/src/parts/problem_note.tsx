import type { Problem } from "../api/problem";
import { words } from "../strings";

/** What is wrong, where, and what to do: the server's own words. */
export function ProblemNote({ problem }: { problem: Problem }) {
  return (
    <p class="problem" role="alert">
      {problem.message}
      {problem.param && <span class="problem-param">{words.errors.at(problem.param)}</span>}
    </p>
  );
}
