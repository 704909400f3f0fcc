// The official openai package against the server: completions and chat, streamed and not, errors.
// node test_sdk.mjs URL MODEL KEY
import assert from 'node:assert/strict';
import OpenAI, { APIError, AuthenticationError, NotFoundError, BadRequestError } from 'openai';

const [url, model, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const messages = [{ role: 'system', content: 'Be kind.' }, { role: 'user', content: 'Once upon a time' }];
const common = { model, max_tokens: 12, temperature: 0, seed: 1 };

async function models() {
    const ids = [];
    for await (const m of client.models.list()) ids.push(m.id);
    assert.deepEqual(ids, [model]);
    assert.equal((await client.models.retrieve(model)).object, 'model');
}

async function chat() {
    const whole = await client.chat.completions.create({ ...common, messages });
    const [choice] = whole.choices;
    assert.equal(whole.object, 'chat.completion');
    assert.equal(choice.message.role, 'assistant');
    assert.ok(choice.message.content.length > 0);
    assert.ok(['stop', 'length'].includes(choice.finish_reason));
    assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

    const stream = await client.chat.completions.create({
        ...common, messages, stream: true, stream_options: { include_usage: true },
    });
    let text = '', finish = null, usage = null, first = null;
    for await (const chunk of stream) {
        assert.equal(chunk.object, 'chat.completion.chunk');
        first ??= chunk;
        text += chunk.choices[0]?.delta.content ?? '';
        finish = chunk.choices[0]?.finish_reason ?? finish;
        usage = chunk.usage ?? usage;
    }
    assert.equal(first.choices[0].delta.role, 'assistant');
    assert.equal(text, choice.message.content);
    assert.equal(finish, choice.finish_reason);
    assert.equal(usage.total_tokens, whole.usage.total_tokens); // what was cached differs

    // The SDK's own accumulator must agree.
    const helper = client.chat.completions.stream({ ...common, messages });
    assert.equal((await helper.finalChatCompletion()).choices[0].message.content, text);
}

async function several() {
    const whole = await client.chat.completions.create({
        ...common, messages, n: 3, temperature: 0.9, logprobs: true, top_logprobs: 2,
    });
    assert.deepEqual(whole.choices.map((c) => c.index), [0, 1, 2]);
    for (const choice of whole.choices) {
        assert.ok(choice.logprobs.content.length > 0);
        for (const t of choice.logprobs.content) {
            assert.ok(t.logprob <= 0 && t.top_logprobs.length === 2 && Array.isArray(t.bytes));
        }
    }
    const stream = await client.chat.completions.create({
        ...common, messages, n: 3, temperature: 0.9, stream: true,
    });
    const texts = ['', '', ''];
    for await (const chunk of stream) {
        for (const c of chunk.choices) texts[c.index] += c.delta.content ?? '';
    }
    assert.deepEqual(texts, whole.choices.map((c) => c.message.content));
}

async function completions() {
    const whole = await client.completions.create({ ...common, prompt: ['Once', 'Twice'], logprobs: 2 });
    assert.equal(whole.object, 'text_completion');
    assert.equal(whole.choices.length, 2);
    const l = whole.choices[0].logprobs;
    assert.equal(l.tokens.length, l.token_logprobs.length);
    assert.equal(l.tokens.length, l.text_offset.length);
    const stream = await client.completions.create({ ...common, prompt: ['Once', 'Twice'], stream: true });
    const texts = ['', ''];
    for await (const chunk of stream) {
        for (const c of chunk.choices) texts[c.index] += c.text;
    }
    assert.deepEqual(texts, whole.choices.map((c) => c.text));
    const echoed = await client.completions.create({ ...common, prompt: 'Once', echo: true });
    assert.equal(echoed.choices[0].text, 'Once' + texts[0]);
    const stopped = await client.completions.create({
        ...common, prompt: 'Once', max_tokens: 60, stop: texts[0].slice(2, 5),
    });
    assert.ok(!stopped.choices[0].text.includes(texts[0].slice(2, 5)));
    assert.equal(stopped.choices[0].finish_reason, 'stop');
}

async function embeddings() {
    const ask = (more) => client.embeddings.create({ model, ...more });
    const several = await ask({ input: ['Once', 'upon a time'] }); // the package asks for base64
    assert.equal(several.object, 'list');
    assert.equal(several.model, model);
    assert.deepEqual(several.data.map((d) => d.index), [0, 1]);
    assert.equal(several.usage.prompt_tokens, several.usage.total_tokens);
    const size = (v) => Math.hypot(...v);
    for (const d of several.data) assert.ok(Math.abs(size(d.embedding) - 1) < 1e-5);
    const numbers = await ask({ input: 'Once', encoding_format: 'float' });
    assert.deepEqual(numbers.data[0].embedding.map(Math.fround), several.data[0].embedding);
    const cut = await ask({ input: [1, 300, 7], dimensions: 8 });
    assert.equal(cut.data[0].embedding.length, 8);
    assert.ok(Math.abs(size(cut.data[0].embedding) - 1) < 1e-5);
    await assert.rejects(ask({ input: 'x', dimensions: 100000 }), (e) => e instanceof BadRequestError
        && e.param === 'dimensions');
}

async function errors() {
    const ask = (more, who = client) => who.chat.completions.create({ ...common, messages, ...more });
    await assert.rejects(ask({ model: 'gpt-9' }), (e) => e instanceof NotFoundError
        && e.code === 'model_not_found' && e.param === 'model' && e.requestID.length > 0);
    await assert.rejects(ask({ temperature: 9 }), (e) => e instanceof BadRequestError
        && e.param === 'temperature' && e.type === 'invalid_request_error');
    await assert.rejects(ask({ messages: [] }), BadRequestError);
    await assert.rejects(ask({ stream: true, max_tokens: -1 }), BadRequestError);
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'wrong', maxRetries: 0 });
    await assert.rejects(ask({}, stranger), (e) => e instanceof AuthenticationError
        && e.code === 'invalid_api_key');
    assert.ok(APIError);
}

async function leave() {
    const stream = await client.chat.completions.create({
        ...common, messages, max_tokens: 2000, stream: true,
    });
    for await (const chunk of stream) {
        if (chunk.choices[0]?.delta.content) break; // closes the connection
    }
}

// The model always calls f, in both of its turns.
async function tools() {
    const f = { type: 'function', function: { name: 'f', parameters: { type: 'object', properties: {} } } };
    const ask = (more) => ({ model, messages, max_tokens: 200, tools: [f], ...more });
    const whole = await client.chat.completions.create(ask());
    const [{ message, finish_reason }] = whole.choices;
    assert.equal(finish_reason, 'tool_calls');
    assert.equal(message.content, 'Let me see.');
    assert.deepEqual(message.tool_calls.map((c) => [c.type, c.function.name, c.function.arguments]),
        [['function', 'f', '{"city":"Zürich"}'], ['function', 'f', '{}']]);

    const stream = client.chat.completions.stream(ask());
    const helped = (await stream.finalChatCompletion()).choices[0]; // the SDK puts the deltas together
    assert.equal(helped.finish_reason, 'tool_calls');
    assert.equal(helped.message.content, message.content);
    assert.deepEqual(helped.message.tool_calls.map((c) => c.function.arguments),
        message.tool_calls.map((c) => c.function.arguments));

    // The loop that agents run: results go back, until the runner has had enough.
    let n = 0;
    const runner = client.chat.completions.runTools({
        ...ask(),
        tools: [{ ...f, function: { ...f.function, parse: JSON.parse, function: ({ city }) => { n++; return city ?? 'none'; } } }],
    }, { maxChatCompletions: 2 });
    await runner.done().catch(() => {});
    assert.equal(n, 4);
    assert.deepEqual(runner.messages.filter((m) => m.role === 'tool').map((m) => m.content),
        ['Zürich', 'none', 'Zürich', 'none']);

    const one = await client.chat.completions.create(ask({ parallel_tool_calls: false }));
    assert.equal(one.choices[0].message.tool_calls.length, 1);
    const off = await client.chat.completions.create(ask({ tool_choice: 'none' }));
    assert.equal(off.choices[0].message.tool_calls, undefined);
    assert.ok(off.choices[0].message.content.includes('<tool_call>'));
    await assert.rejects(client.chat.completions.create(ask({ tool_choice: 'required' })),
        (e) => e instanceof BadRequestError && e.param === 'tool_choice');
}

const all = process.argv[5] === 'tools' ? [tools] : [models, chat, several, completions, embeddings, errors, leave];
for (const test of all) {
    await test();
    console.log(`${test.name}: passed`);
}
