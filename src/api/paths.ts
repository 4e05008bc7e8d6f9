import type { FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import { Failure } from '../model/failure.ts';
import type { App } from './app.ts';

/**
 * Answers what no route takes: 405 with `Allow` where the path exists with other methods, else 404; before a body is read, as
 * there is nothing it could be for. Must be called before the routes are made, to see them all.
 */
export function answerUnknownPaths(app: App): void {
  const known = new Map<string, { readonly matches: RegExp; readonly methods: Set<string> }>();
  app.addHook('onRoute', ({ url, method }: RouteOptions) => {
    const entry = known.get(url) ?? { matches: pattern(url), methods: new Set<string>() };
    for (const each of [method].flat()) entry.methods.add(each);
    known.set(url, entry);
  });
  const refuse = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const path = request.url.split('?')[0] ?? '';
    const methods = new Set(
      [...known.values()].flatMap((entry) => (entry.matches.test(path) ? [...entry.methods] : [])),
    );
    // With its own method: a path with a wildcard, under which this is not.
    if (methods.size === 0 || methods.has(request.method))
      throw new Failure(
        'not_found',
        'There is nothing at this path; GET /openapi.json lists what there is.',
        {
          details: { path: path.slice(0, 256) },
        },
      );
    const allow = [...methods].sort().join(', ');
    reply.header('allow', allow);
    throw new Failure(
      'method_not_allowed',
      `${request.method} is not possible here; ${allow} ${methods.size === 1 ? 'is' : 'are'}.`,
      {
        details: { method: request.method, allow: [...methods].sort() },
      },
    );
  };
  app.addHook('onRequest', async (request, reply) => {
    if (request.is404) await refuse(request, reply);
  });
  app.setNotFoundHandler(refuse);
}

function pattern(url: string): RegExp {
  const source = url
    .split('/')
    .map((part) => (part.startsWith(':') ? '[^/]+' : part === '*' ? '.*' : part.replace(/[^\w-]/g, '\\$&')))
    .join('/');
  return new RegExp(`^${source}/?$`);
}
