// The model that comes with Kvasir, through the official openai package: a greeting, facts it knows, a value from a text.
// node test_default_model.mjs URL
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: 'none', maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
assert.equal(model, 'kvasir-demo');

async function ask(content, max_tokens = 60) {
    const stream = await client.chat.completions.create({
        model, max_tokens, temperature: 0, messages: [{ role: 'user', content }], stream: true,
    });
    let text = '', finish = null;
    for await (const chunk of stream) {
        text += chunk.choices[0]?.delta.content ?? '';
        finish = chunk.choices[0]?.finish_reason ?? finish;
    }
    console.log(`${content.slice(0, 60)} -> ${text}`);
    assert.equal(finish, 'stop');
    return text;
}

assert.match(await ask('Hello'), /^Hello!/);
assert.match(await ask('What is the capital of France?'), /Paris/);
assert.match(await ask('What sound does a dog make?'), /barks/);
assert.match(await ask('Who are you?'), /Kvasir/);
const data = JSON.stringify({ qfzu: 4821, mok: 1930, wyp: 7755, ibro: 3108 }, null, 1);
assert.match(await ask(`JSON data:\n${data.replace(/\n */g, ' ')}\nWhat is the value of "wyp"?`), /^7755$/);
console.log('default model: passed');
