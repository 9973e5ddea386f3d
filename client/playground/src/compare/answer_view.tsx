import { TraceChart } from "../chart/trace_chart";
import { ProblemNote } from "../parts/problem_note";
import type { Answer } from "../state/compare/answer";
import { words } from "../strings";
import { AnswerText } from "./answer_text";
import { ReceiptView } from "./receipt_view";

/** One answer: its text as it comes, how it ended, what is known of it by token, its receipt if it was steered or read. */
export function AnswerView({ answer }: { answer: Answer }) {
  const problem = answer.problem.value;
  return (
    <>
      {answer.status.value === "waiting" && (
        <p class="answer-waiting">
          <span class="unseen">{words.compare.waiting}</span>
        </p>
      )}
      <AnswerText answer={answer} />
      {problem && <ProblemNote problem={problem} />}
      <p class="answer-end" role="status">
        {endOf(answer).join(" · ")}
      </p>
      {answer.traces.list.value.map(
        (trace) => trace.version.value > 0 && trace.length > 0 && <TraceChart key={`${trace.kind} ${trace.ofAnswer}`} answer={answer} trace={trace} />,
      )}
      {answer.receipt.value && <ReceiptView receipt={answer.receipt.value} />}
    </>
  );
}

function endOf(answer: Answer): string[] {
  const { compare } = words;
  const status = answer.status.value;
  if (answer.isRunning) return [];
  const parts: string[] = [];
  if (status === "stopped") parts.push(compare.stopped);
  if (status === "broken") parts.push(compare.broken);
  if (status === "refused") parts.push(compare.refused);
  if (answer.finish.value === "length") parts.push(compare.cut);
  if (answer.tokens.value !== null) parts.push(compare.tokens(answer.tokens.value));
  if (status === "done" && answer.seconds.value !== null) parts.push(compare.seconds(answer.seconds.value));
  return parts;
}
