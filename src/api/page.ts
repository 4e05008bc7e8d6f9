import type { FastifyReply, FastifyRequest } from 'fastify';

/** Most entries of a list where the caller does not say. */
export const DEFAULT_LIMIT = 100;

/**
 * One page of a list. Asks for one more than the page holds, to know whether there is more; then the answer has a `Link`
 * header with `rel="next"`: the same request, after the last one shown. The reference is relative to the host, whatever name
 * and port the server is reached by.
 */
export async function answerPage<T extends { readonly id: string }>(
  request: FastifyRequest<{ Querystring: { limit?: number; after?: string } }>,
  reply: FastifyReply,
  list: (page: { readonly limit: number; readonly after?: string | undefined }) => Promise<readonly T[]>,
): Promise<readonly T[]> {
  const { limit = DEFAULT_LIMIT, after } = request.query;
  const found = await list({ limit: limit + 1, after });
  const shown = found.slice(0, limit);
  const last = shown.at(-1);
  if (found.length > limit && last !== undefined) reply.header('link', linkTo(request.url, last.id));
  return shown;
}

/** A `Link` header to the page after this one: the same request, after `after`. */
export function linkTo(url: string, after: string): string {
  const mark = url.indexOf('?');
  const path = mark < 0 ? url : url.slice(0, mark);
  const parameters = new URLSearchParams(mark < 0 ? '' : url.slice(mark + 1));
  parameters.set('after', after);
  return `<${path}?${parameters.toString()}>; rel="next"`;
}
