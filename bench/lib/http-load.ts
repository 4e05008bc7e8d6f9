import { Agent, createServer, request, type IncomingMessage } from 'node:http';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * `node bench/lib/http-load.ts rate PORT REQUESTS_A_SECOND SECONDS`: asks at a fixed rate over kept connections, whether or not answers
 * come, and prints the times from when each was due, sorted, in milliseconds, as JSON. `one PORT TIMES`: one after the other.
 * `upgrades PORT COUNT`: opens so many connections of another protocol, prints `open`, and holds them. `upgrading IP PORT`: a guest that
 * agrees to another protocol. All ask for `web.hatch.localhost` at 127.0.0.1.
 */
const [what, ...args] = process.argv.slice(2);
const agent = new Agent({ keepAlive: true, maxSockets: 64 });
const at = (port: number, headers = {}): object => ({
  host: '127.0.0.1',
  port,
  headers: { host: 'web.hatch.localhost', ...headers },
});

async function answered(port: number): Promise<void> {
  const sent = request({ ...at(port), agent });
  sent.end();
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  answer.resume();
  await once(answer, 'end');
  if (answer.statusCode !== 200) throw new Error(`the answer was a ${answer.statusCode}`);
}

async function atRate(port: number, perSecond: number, seconds: number): Promise<number[]> {
  const all: Promise<number>[] = [];
  const from = performance.now();
  for (let i = 0; i < perSecond * seconds; i++) {
    const due = from + (i * 1000) / perSecond;
    while (performance.now() < due) await sleep(Math.max(0, due - performance.now() - 0.5));
    all.push(answered(port).then(() => performance.now() - due));
  }
  return Promise.all(all);
}

async function oneByOne(port: number, times: number): Promise<number[]> {
  const all: number[] = [];
  for (let i = -20; i < times; i++) {
    const from = performance.now();
    await answered(port);
    if (i >= 0) all.push(performance.now() - from);
  }
  return all;
}

async function upgrades(port: number, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const sent = request({ ...at(port, { connection: 'Upgrade', upgrade: 'bench' }), agent: false });
    sent.end();
    const [, socket] = (await once(sent, 'upgrade')) as [IncomingMessage, Socket];
    socket.on('error', () => undefined);
  }
  console.log('open');
}

function upgrading(ip: string, port: number): void {
  const server = createServer((_asked, response) => response.end('fine'));
  server.on('upgrade', (_asked, socket) => {
    socket.on('error', () => undefined);
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: bench\r\nConnection: Upgrade\r\n\r\n');
    socket.resume().on('end', () => socket.end());
  });
  server.listen({ port, host: ip, backlog: 4096 }, () => console.log('ready'));
}

const numbers = args.map(Number);
const [first = 0, second = 0, third = 0] = numbers;
if (what === 'upgrades') await upgrades(first, second);
else if (what === 'upgrading') upgrading(args[0] ?? '', second);
else {
  const times = what === 'rate' ? await atRate(first, second, third) : await oneByOne(first, second);
  console.log(JSON.stringify(times.toSorted((a, b) => a - b)));
  agent.destroy();
}
