/** A request as something to paste: into a shell, into Python. */

import type { ChatBody } from "../api/types";

export function asJson(body: ChatBody): string {
  return JSON.stringify(body, null, 2);
}

export function asCurl(body: ChatBody, server: string, withKey: boolean): string {
  const key = withKey ? ` \\\n  -H "Authorization: Bearer $STEERSMAN_API_KEY"` : "";
  return (
    `curl ${quoted(`${server}/v1/chat/completions`)}${key} \\\n` +
    `  -H 'Content-Type: application/json' \\\n  -d ${quoted(asJson(body))}`
  );
}

export function asPython(body: ChatBody, server: string, withKey: boolean): string {
  const { steering, ...rest } = body;
  const key = withKey ? 'os.environ["STEERSMAN_API_KEY"]' : '"none"';
  const fields = Object.entries(rest).map(([name, value]) => `    ${name}=${python(value, 4)},`);
  if (steering !== undefined) fields.push(`    extra_body={"steering": ${python(steering, 4)}},`);
  return [
    ...(withKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${python(`${server}/v1`)}, api_key=${key})`,
    "answer = client.chat.completions.create(",
    ...fields,
    ")",
    "print(answer.choices[0].message.content)",
    ...(steering ? ['print(answer.model_extra["steering"])'] : []),
  ].join("\n");
}

/** In the shell's single quotes. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

/** A literal of Python. JSON's strings and numbers are Python's too. */
function python(value: unknown, indent = 0): string {
  const inner = " ".repeat(indent + 4);
  const outer = " ".repeat(indent);
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) {
    if (value.every((one) => typeof one !== "object")) return `[${value.map((one) => python(one)).join(", ")}]`;
    return `[\n${value.map((one) => `${inner}${python(one, indent + 4)},\n`).join("")}${outer}]`;
  }
  if (typeof value !== "object") return JSON.stringify(value);
  const entries = Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, indent + 4)}`);
  const line = `{${entries.join(", ")}}`;
  if (line.length < 80 && !line.includes("\n")) return line;
  return `{\n${entries.map((entry) => `${inner}${entry},\n`).join("")}${outer}}`;
}
