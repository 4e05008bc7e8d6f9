import { fastify } from 'fastify';

/** `node bench/lib/bare-fastify.ts PORT BODY`: a route that answers `GET /vms/{id}` with these bytes. Prints `ready`. */
const [port = '', body = ''] = process.argv.slice(2);
const app = fastify();
app.get('/vms/:id', async (_request, reply) => {
  reply.header('content-type', 'application/json; charset=utf-8');
  return body;
});
await app.listen({ host: '127.0.0.1', port: Number(port) });
console.log('ready');
