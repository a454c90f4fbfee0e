// Joins a client that starts a program (stdio, one JSON-RPC message per line) to a hub that is reached by HTTP.
// Both eras of MCP: since 2026-07-28 each request says what it speaks, before that a session is agreed on first.
// Only protocol goes to stdout; the key goes into one header and nowhere else. Messages are passed on as they came.
// Not fetch: that gives up on an answer after 300 s.
'use strict';

const http = require('node:http');
const https = require('node:https');

const PARSE_ERROR = -32700, INVALID_REQUEST = -32600, HUB_ERROR = -32000;
const VERSION_KEY = 'io.modelcontextprotocol/protocolVersion';
const NAMED_BY = { 'tools/call': 'name', 'prompts/get': 'name', 'resources/read': 'uri' };
const OWN_ID = 'llm-mcp-hub-bundle'; // of requests that the client did not make
const CONNECT_MS = 5000, AGREE_MS = 10000, CANCEL_MS = 2000, LEAVE_MS = 500;
const PAUSE_MS = 1000, LONGEST_PAUSE_MS = 30000;

// A field that was left empty comes as nothing, or as its own placeholder.
const given = (name) => (process.env[name] || '').trim().replace(/^\$\{.*\}$/, '');
const hub = (given('HUB_URL') || 'http://127.0.0.1:8000').replace(/\/+$/, '').replace(/\/mcp$/, '');
const key = given('HUB_API_KEY');

const underway = new Set(); // HTTP requests
const calls = new Map(); // the client's requests without an answer yet, by id
let session = null; // { id, version }, in the older eras
let agreement = null; // { opening, initialized, wishes }: what another session would have to be told as well
let renewal = null;
let isLeaving = false;

// --- the pipe to the client ------------------------------------------------------------------------------------------

const say = (text) => { if (!isLeaving) process.stdout.write(text.replace(/[\r\n]+/g, ' ') + '\n'); };
const log = (text) => process.stderr.write(`llm-mcp-hub: ${text}\n`);
const fail = (id, code, message, data) => say(JSON.stringify({ jsonrpc: '2.0', id, error: { code, message, data } }));
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const versionOf = (message) => message.params?._meta?.[VERSION_KEY];

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// Not node:readline, for which more characters end a line than JSON-RPC's one.
async function* linesOf(stream) {
  let parts = [];
  stream.setEncoding('utf8');
  for await (const chunk of stream) {
    const [first, ...more] = chunk.split('\n');
    parts.push(first);
    for (const next of more) {
      yield parts.join('').replace(/\r$/, '');
      parts = [next];
    }
  }
}

function isMessage(it) {
  if (!it || typeof it !== 'object' || Array.isArray(it)) return false;
  return typeof it.method === 'string' ? it.id !== null : it.result !== undefined || it.error !== undefined;
}

function take(line) {
  const text = line.trim();
  if (!text) return undefined;
  const message = read(text);
  if (message === undefined) return fail(null, PARSE_ERROR, 'Parse error: a message is one line of JSON');
  if (!isMessage(message)) {
    return fail(message?.id ?? null, INVALID_REQUEST, 'Invalid request: a message is one JSON object with a method');
  }
  if (message.method !== undefined && message.id !== undefined) {
    const answered = answer(message, text);
    return message.method === 'initialize' ? answered : undefined; // what follows needs the session
  }
  return message.method === 'notifications/cancelled' ? cancel(message, text) : tell(message, text);
}

// --- HTTP ------------------------------------------------------------------------------------------------------------

function ask(method, headers, body, { call, withinMs } = {}) {
  return new Promise((resolve, reject) => {
    const endpoint = new URL(`${hub}/mcp`);
    const all = { Accept: 'application/json, text/event-stream', ...headers };
    if (key) Object.assign(all, { Authorization: `Bearer ${key}` });
    if (body !== undefined) Object.assign(all, { 'Content-Type': 'application/json' });
    // Each on a connection of its own: one that was kept may be dead by now.
    const options = { method, agent: false, headers: all };
    const request = (endpoint.protocol === 'https:' ? https : http).request(endpoint, options, resolve);
    const giveUp = (ms, why) => setTimeout(() => { reject(new Error(why)); request.destroy(); }, ms);
    const timers = [giveUp(CONNECT_MS, `The hub at ${hub} can't be reached within ${CONNECT_MS / 1000} s.`)];
    if (withinMs) timers.push(giveUp(withinMs, `The hub at ${hub} gave no answer within ${withinMs / 1000} s.`));
    let isThere = false;
    request.on('socket', (socket) => {
      socket.setKeepAlive(true, 30000); // notices a machine that is gone without a word
      socket.once(endpoint.protocol === 'https:' ? 'secureConnect' : 'connect', () => {
        isThere = true;
        clearTimeout(timers[0]);
      });
    });
    request.on('error', (error) => reject(new Error(isThere ? `The hub at ${hub} ended before it had answered.`
      : `The hub at ${hub} can't be reached (${error.code || error.message}). Is it running?`)));
    request.on('close', () => { timers.forEach(clearTimeout); underway.delete(request); });
    underway.add(request);
    if (call) call.request = request;
    request.end(body);
  });
}

async function* eventsOf(response) {
  let data = [];
  for await (const line of linesOf(response)) {
    if (line.startsWith('data:')) data.push(line.slice(5).trim());
    else if (!line && data.join('')) yield data.join(' ');
    if (!line) data = [];
  }
}

// The messages of an answer, each as [text, parsed]. Throws what the client is to be told if it is no such answer.
async function* messagesOf(response, id) {
  const ok = response.statusCode < 300;
  if (ok && /^text\/event-stream/i.test(response.headers['content-type'] || '')) {
    for await (const text of eventsOf(response)) {
      const parsed = read(text);
      if (parsed) yield [text, parsed];
      else log(`passed over ${text.length} characters from the hub that are no message`);
    }
    return;
  }
  let text = '';
  response.setEncoding('utf8');
  for await (const chunk of response) text += chunk;
  const parsed = read(text);
  if (parsed?.jsonrpc === '2.0' && (parsed.result || parsed.error)) {
    const own = { ...parsed, id }; // null in errors about what the hub could not read
    yield [parsed.id === id ? text : JSON.stringify(own), own];
  } else {
    const why = parsed?.error?.message || `it answered with status ${response.statusCode} and no message`;
    throw Object.assign(new Error(`The hub at ${hub} refuses this: ${why}`), { status: response.statusCode });
  }
}

function headersFor(message) {
  const version = versionOf(message);
  if (version === undefined) return message.method === 'initialize' ? {} : sessionHeaders();
  const named = message.params[NAMED_BY[message.method]];
  return {
    'MCP-Protocol-Version': encode(String(version)),
    'Mcp-Method': encode(String(message.method)),
    ...(typeof named === 'string' && { 'Mcp-Name': encode(named) }),
  };
}

const sessionHeaders = (of = session) => ({
  ...(of?.id && { 'Mcp-Session-Id': of.id }),
  ...(of?.version && { 'MCP-Protocol-Version': of.version }),
});

// The protocol's own rule for what a header can't carry.
function encode(value) {
  const isPlain = /^[\x20-\x7E]*$/.test(value) && value === value.trim() && !/^=\?base64\?.*\?=$/.test(value);
  return isPlain ? value : `=?base64?${Buffer.from(value).toString('base64')}?=`;
}

// --- what the client asks --------------------------------------------------------------------------------------------

async function answer(message, text) {
  const name = JSON.stringify(message.id);
  const call = { isModern: versionOf(message) !== undefined, isOver: false };
  call.begun = new Promise((begin) => { call.begin = begin; });
  calls.set(name, call);
  try {
    await deliver(message, text, call);
    if (!call.isOver) throw new Error(`The hub at ${hub} ended before it had answered.`);
  } catch (error) {
    if (!call.isOver) fail(message.id, HUB_ERROR, brokenOff(error), error.status && { status: error.status });
  } finally {
    call.begin();
    if (calls.get(name) === call) calls.delete(name);
  }
}

const brokenOff = (error) => (['ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE'].includes(error.code)
  ? `The hub at ${hub} ended in the middle of an answer.` : error.message);

async function deliver(message, text, call) {
  const response = await post(message, text, { call, withinMs: message.method === 'initialize' ? AGREE_MS : 0 });
  call.begin();
  for await (const [data, parsed] of messagesOf(response, message.id)) {
    const isAnswer = parsed.id === message.id && parsed.method === undefined;
    if (isAnswer && parsed.result) note(message, parsed.result, response);
    // HTTP has to end a cancelled request by an answer; a client on pipes expects none.
    if (!(isAnswer && call.isOver)) say(data);
    if (isAnswer) return void (call.isOver = true);
  }
}

// In the session if it needs one, and once more in another if the hub has lost that.
async function post(message, text, options) {
  const used = session;
  const response = await ask('POST', headersFor(message), text, options);
  const isLost = response.statusCode === 404 && used?.id && versionOf(message) === undefined;
  if (!isLost || message.method === 'initialize') return response;
  response.resume();
  await renew(used);
  return ask('POST', headersFor(message), text, options);
}

function note(message, result, response) {
  const uri = message.params?.uri;
  if (message.method === 'initialize') {
    if (session?.id) ask('DELETE', sessionHeaders()).then((last) => last.resume(), () => {});
    session = { id: response.headers['mcp-session-id'], version: result.protocolVersion };
    agreement = { opening: message, wishes: new Map() };
  } else if (message.method === 'logging/setLevel') agreement?.wishes.set('level', message);
  else if (message.method === 'resources/subscribe') agreement?.wishes.set(`uri ${uri}`, message);
  else if (message.method === 'resources/unsubscribe') agreement?.wishes.delete(`uri ${uri}`);
}

// Since 2026 hanging up is what cancels, before that the hub has to be told, and not before it knows the request.
async function cancel(message, text) {
  const call = calls.get(JSON.stringify(message.params?.requestId));
  if (!call && !session) return undefined;
  if (call) call.isOver = true; // nobody waits for an answer any more
  if (call?.isModern) return void call.request?.destroy();
  if (call) await Promise.race([call.begun, sleep(CANCEL_MS)]);
  return tell(message, text);
}

async function tell(message, text) {
  try {
    const response = await post(message, text, { withinMs: AGREE_MS });
    response.resume();
    if (response.statusCode >= 300) log(`the hub took no ${message.method || 'answer'}: status ${response.statusCode}`);
    if (message.method === 'notifications/initialized' && agreement) {
      agreement.initialized = text;
      listen(session);
    }
  } catch (error) {
    log(error.message);
  }
}

// --- sessions --------------------------------------------------------------------------------------------------------

// A hub that was started anew knows none of its sessions: agree on another behind the client's back, once for all.
function renew(lost) {
  if (session === lost && !renewal) renewal = agreeAgain().finally(() => { renewal = null; });
  return renewal;
}

async function agreeAgain() {
  const [result, id] = await askOurselves(agreement.opening, {});
  const next = { id, version: result.protocolVersion };
  if (agreement.initialized) {
    (await ask('POST', sessionHeaders(next), agreement.initialized, { withinMs: AGREE_MS })).resume();
    for (const wish of agreement.wishes.values()) await askOurselves(wish, sessionHeaders(next));
  }
  session = next;
  if (agreement.initialized) listen(next);
}

async function askOurselves(message, headers) {
  const body = JSON.stringify({ ...message, id: OWN_ID });
  const response = await ask('POST', headers, body, { withinMs: AGREE_MS });
  for await (const [, parsed] of messagesOf(response, OWN_ID)) {
    if (parsed.id === OWN_ID && parsed.result) return [parsed.result, response.headers['mcp-session-id']];
  }
  throw new Error(`The hub at ${hub} has lost this session and begins no other. Start the client anew.`);
}

// What the hub says by itself, for as long as the session lasts.
async function listen(own) {
  let pause = PAUSE_MS;
  while (own?.id && own === session && !isLeaving) {
    try {
      const response = await ask('GET', sessionHeaders(own));
      if (response.statusCode >= 400 && response.statusCode < 500) return void response.resume(); // nothing to hear
      for await (const text of eventsOf(response)) {
        pause = PAUSE_MS;
        say(text);
      }
    } catch { /* the hub is away: the next request will tell */ }
    await sleep(pause);
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}

// --- the end ---------------------------------------------------------------------------------------------------------

async function leave() {
  if (isLeaving) return;
  isLeaving = true;
  setTimeout(() => process.exit(0), LEAVE_MS);
  for (const request of underway) request.destroy();
  if (session?.id) await ask('DELETE', sessionHeaders()).catch(() => {});
  process.exit(0);
}

async function serve() {
  let before = Promise.resolve();
  // Requests are not waited for, but what comes between them keeps its order.
  for await (const line of linesOf(process.stdin)) {
    before = before.then(() => take(line)).catch((error) => log(error.message));
  }
}

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, leave);
process.stdout.on('error', leave); // the client is gone
serve().catch(() => {}).then(leave);
