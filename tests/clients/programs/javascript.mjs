// openai's JavaScript library and Vercel's AI SDK: node javascript.mjs URL, in a folder with both in node_modules.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [url, folder] = process.argv.slice(2);
const need = createRequire(`${folder}/`);
const load = (name) => import(pathToFileURL(need.resolve(name)));
const version = (name) => JSON.parse(readFileSync(`${folder}/node_modules/${name}/package.json`)).version;
const ask = JSON.parse(readFileSync(new URL('../ask.json', import.meta.url)));
const steering = { vectors: { [ask.vector]: ask.coefficient } };
const named = `${ask.model}:${ask.vector}@${ask.coefficient}`;
const messages = [{ role: 'user', content: ask.question }];
const coefficient = (receipt) => {
  const found = typeof receipt === 'string' ? JSON.parse(receipt) : receipt;
  return found ? String(found.vectors[0].coefficient) : '';
};

async function cell(client, column, how, run) {
  const line = { client, column, how, route: 'chat' };
  try {
    const [text, receipt] = await run();
    console.log(JSON.stringify({ ...line, text, receipt: coefficient(receipt), error: '' }));
  } catch (error) {
    console.log(JSON.stringify({ ...line, text: '', receipt: '', error: String(error).slice(0, 300) }));
  }
}

async function openai() {
  const { default: OpenAI } = await load('openai');
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
  const body = { messages, max_tokens: ask.tokens, stop: ask.stop, temperature: 0 };
  const read = async (more) => {
    const answer = await client.chat.completions.create({ ...body, ...more });
    return [answer.choices[0].message.content, answer.steering];
  };
  const stream = async () => {
    let [text, receipt] = ['', null];
    const chunks = await client.chat.completions.create({ ...body, model: ask.model, steering, stream: true });
    for await (const chunk of chunks) {
      text += chunk.choices[0]?.delta.content ?? '';
      receipt = chunk.steering ?? receipt;
    }
    return [text, receipt];
  };
  const name = `openai JavaScript ${version('openai')}`;
  await cell(name, 'plain', '', () => read({ model: ask.model }));
  await cell(name, 'field', 'one more key', () => read({ model: ask.model, steering }));
  await cell(name, 'name', '', () => read({ model: named }));
  await cell(name, 'stream', '', stream);
}

async function vercel() {
  const { generateText, streamText } = await load('ai');
  const { createOpenAICompatible } = await load('@ai-sdk/openai-compatible');
  const provider = createOpenAICompatible({ name: 'steersman', baseURL: `${url}/v1`, apiKey: 'none' });
  const options = {
    messages, maxOutputTokens: ask.tokens, stopSequences: ask.stop, temperature: 0, maxRetries: 0,
  };
  const field = { providerOptions: { steersman: { steering } } };
  const header = (headers) => headers?.['steering-receipt'];
  const read = async (model, more) => {
    const answer = await generateText({ ...options, model: provider(model), ...more });
    return [answer.text, header(answer.response.headers)];
  };
  const stream = async () => {
    const answer = streamText({ ...options, model: provider(ask.model), ...field });
    let text = '';
    for await (const piece of answer.textStream) text += piece;
    return [text, header((await answer.response).headers)];
  };
  const name = `Vercel AI SDK ${version('ai')}`;
  await cell(name, 'plain', '', () => read(ask.model, {}));
  await cell(name, 'field', '`providerOptions`', () => read(ask.model, field));
  await cell(name, 'name', '', () => read(named, {}));
  await cell(name, 'stream', '`streamText`', stream);
}

await openai();
await vercel();
