// What openai's JavaScript sees. node see.mjs URL VECTOR, in a folder with node_modules/openai.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const OpenAI = require("openai").default ?? require("openai");
const [url, vector] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const ask = {
  model: "smollm2",
  messages: [{ role: "user", content: "Hi" }],
  max_tokens: 4,
  temperature: 0,
};
const steering = { vectors: { [vector]: 0.5 } };

async function see(name, make) {
  let said;
  try {
    said = await make();
  } catch (error) {
    said = `${error.status} ${error.code} ${error.param}`;
  }
  console.log(JSON.stringify([name, said]));
}

await see("one more key", async () => (await client.chat.completions.create({ ...ask, steering })).steering ? "receipt" : "no receipt");
await see("extra_body in the body", async () => (await client.chat.completions.create({ ...ask, extra_body: { steering } })).steering ? "receipt" : "no receipt");
await see("one more key, stream, last chunk", async () => {
  let last;
  for await (const chunk of await client.chat.completions.create({ ...ask, steering, stream: true })) last = chunk;
  return last.steering ? "receipt" : "no receipt";
});
await see("header X-Steering, Steering-Receipt", async () => {
  const { response } = await client.chat.completions.create(ask, { headers: { "X-Steering": `${vector}=0.5` } }).withResponse();
  return response.headers.get("steering-receipt") ? "receipt" : "no receipt";
});
await see("responses.create, one more key", async () => (await client.responses.create({ model: "smollm2", input: "Hi", max_output_tokens: 4, steering })).steering ? "receipt" : "no receipt");
await see("unknown vector", async () => await client.chat.completions.create({ ...ask, steering: { vectors: { nobody: 1 } } }));
