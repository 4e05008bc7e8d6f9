import { hash, randomUUID } from 'node:crypto';
import { DatabaseSync } from 'node:sqlite';
import { fastify, type FastifyRequest } from 'fastify';
import { destination, pino } from 'pino';

/**
 * `node bench/lib/least-api.ts PORT BODY KEY LOG`: the least that answers `GET /vms/{id}` as an API does: it knows the key by its hash,
 * names the request, reads one row by a prepared statement, writes JSON of it and one line to the file LOG. No check, limit, counter or
 * deadline. Prints `ready`.
 */
const [port = '', body = '', key = '', file = ''] = process.argv.slice(2);
const log = pino({}, destination({ dest: file, sync: false, minLength: 4096 }));
const keys = new Map([[hash('sha256', key), 'key']]);
const columns = Object.entries(JSON.parse(body) as Record<string, unknown>).map(
  ([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)] as const,
);
const database = new DatabaseSync(':memory:');
database.exec(`create table vms (${columns.map(([name]) => name).join(', ')}, primary key (id))`);
database
  .prepare(`insert into vms values (${columns.map(() => '?').join(', ')})`)
  .run(...columns.map(([, value]) => value));
const byId = database.prepare('select * from vms where id = ?');

const app = fastify({ genReqId: () => randomUUID() });
const came = new WeakMap<FastifyRequest, number>();
app.addHook('onRequest', async (request, reply) => {
  came.set(request, Date.now());
  reply.headers({ 'x-request-id': request.id, 'cache-control': 'no-store' });
  const given = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '';
  if (!keys.has(hash('sha256', given))) throw new Error('who is that?');
});
app.addHook('onResponse', (request, reply, done) => {
  const ms = Date.now() - (came.get(request) ?? 0);
  log.info(
    { request_id: request.id, method: request.method, path: request.url, status: reply.statusCode, ms },
    'request',
  );
  done();
});
app.get<{ Params: { id: string } }>('/vms/:id', async (request, reply) => {
  reply.header('content-type', 'application/json; charset=utf-8');
  return JSON.stringify(byId.get(request.params.id));
});
await app.listen({ host: '127.0.0.1', port: Number(port) });
console.log('ready');
