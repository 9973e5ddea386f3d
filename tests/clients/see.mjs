// What openai's JavaScript sees of a running server that has the vectors of the demo.
// node see.mjs URL, in a folder with node_modules/openai. Prints lines as see.py does.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const OpenAI = require("openai").default ?? require("openai");
const { version } = JSON.parse(readFileSync("node_modules/openai/package.json", "utf8"));
const [url] = process.argv.slice(2);
const said = JSON.parse(readFileSync(new URL("ask.json", import.meta.url), "utf8"));
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const chat = {
  model: said.model,
  messages: [{ role: "user", content: said.question }],
  max_tokens: said.tokens,
  stop: said.stop,
  temperature: 0,
};
const responses = {
  model: said.model,
  input: said.question,
  max_output_tokens: said.tokens,
  temperature: 0,
};
const steering = { vectors: { [said.vector]: said.coefficient } };
const headers = { "X-Steering": `${said.vector}=${said.coefficient}` };

async function sees(what, make, route = "chat") {
  const row = { client: `openai JavaScript ${version}`, what, route };
  let seen;
  try {
    const [text, places] = await make();
    const found = Object.keys(places).filter((place) => places[place]);
    seen = { status: "200", text, receipt: found.join(", ") };
  } catch (error) {
    const why = error.param ?? error.constructor.name;
    seen = { status: `${error.status ?? "no status"}, ${why}`, text: "", receipt: "" };
  }
  console.log(JSON.stringify({ ...row, ...seen }));
}

const answer = (whole, more = {}) => [
  whole.choices[0].message.content,
  { "`steering`": whole.steering, ...more },
];
const create = (...given) => client.chat.completions.create(...given);

await sees("one more key, `steering`", async () => answer(await create({ ...chat, steering })));
await sees("the same, `stream: true`", async () => {
  let text = "", last;
  for await (last of await create({ ...chat, steering, stream: true }))
    text += last.choices[0]?.delta.content ?? "";
  return [text, { "last chunk": last.steering }];
});
await sees("`extra_body: {steering}`", async () => answer(await create({ ...chat, extra_body: { steering } })));
await sees('`headers: {"X-Steering": ...}`, `.withResponse()`', async () => {
  const { data, response } = await create(chat, { headers }).withResponse();
  return answer(data, { header: response.headers.get("steering-receipt") });
});
await sees("a vector that is not there", async () =>
  answer(await create({ ...chat, steering: { vectors: { nobody: 1 } } })));
await sees("`responses.create`, one more key", async () => {
  const made = await client.responses.create({ ...responses, steering });
  return [made.output_text, { "`steering`": made.steering }];
}, "responses");
