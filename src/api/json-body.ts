import type { App } from './app.ts';
import { Failure, invalid } from '../model/failure.ts';

/** Most bytes of a request's body. */
export const BODY_BYTES = 1024 * 1024;

/**
 * Takes JSON in UTF-8 and nothing else. A POST or PATCH without a body is as good as `{}`, whether it says it is JSON or says
 * nothing; what its fields must be, its schema says.
 */
export function takeJsonOnly(app: App): void {
  app.removeAllContentTypeParsers();
  const parse = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, raw, done) => {
    const encoding = request.headers['content-encoding'];
    if (encoding !== undefined && encoding !== 'identity')
      return done(
        new Failure('unsupported_media_type', 'Content-Encoding is not taken: send the JSON as it is.', {
          details: { content_encoding: String(encoding).slice(0, 64) },
        }),
      );
    let text: string;
    try {
      text = new TextDecoder('utf-8', { fatal: true }).decode(Buffer.from(raw));
    } catch {
      return done(invalid('', 'The body is not UTF-8, as JSON must be.'));
    }
    if (text.trim() === '') return done(null, undefined);
    void parse(request, text, (error, value) => {
      if (error) return done(malformed(text, error));
      const broken = brokenText(text, value);
      done(broken === undefined ? null : noText(broken), value);
    });
  });
  app.addHook('preValidation', (request, _reply, done) => {
    const schema = request.routeOptions.schema;
    if (request.body === undefined && schema?.body !== undefined) request.body = {};
    done();
  });
}

/**
 * The field of a value that holds half a surrogate pair, in its text or a name of its own; undefined when none does. JSON can
 * write such a half (`\\ud800`), but no text in UTF-8 can: it would be kept, shown and handed on as another.
 */
function brokenText(json: string, value: unknown): string | undefined {
  if (!/\\u[dD][89a-fA-F]/.test(json)) return undefined;
  // A body may be nested more deeply than calls can be.
  const left: { readonly path: string; readonly value: unknown }[] = [{ path: '', value }];
  for (let next = left.pop(); next; next = left.pop()) {
    const { path, value: at } = next;
    if (typeof at === 'string' && !at.isWellFormed()) return path;
    if (typeof at !== 'object' || at === null) continue;
    for (const [name, inner] of Object.entries(at)) {
      if (!name.isWellFormed()) return path;
      left.push({ path: path === '' ? name : `${path}.${name}`, value: inner });
    }
  }
  return undefined;
}

function noText(field: string): Failure {
  const what = field === '' ? 'The body' : JSON.stringify(field.slice(0, 256));
  return invalid(
    field.slice(0, 256),
    `${what} holds half a surrogate pair (such as \\ud800 alone), which is no text and cannot be written as UTF-8.`,
  );
}

/** Says where JSON is broken, as far as it can be told; never quotes it. */
function malformed(text: string, error: Error): Failure {
  let at = '';
  const details: Record<string, number> = {};
  try {
    JSON.parse(text);
  } catch (syntax) {
    const match = syntax instanceof SyntaxError ? /position (\d+)/.exec(syntax.message) : null;
    const position = match ? Number(match[1]) : /end of JSON/.test(String(syntax)) ? text.length : undefined;
    if (position !== undefined) {
      const before = text.slice(0, position).split('\n');
      details['line'] = before.length;
      details['column'] = (before.at(-1)?.length ?? 0) + 1;
      at = `: it is broken at line ${details['line']}, column ${details['column']}`;
    }
    return new Failure('invalid_request', `The body is not JSON${at}.`, {
      details,
      cause: error,
    });
  }
  return new Failure(
    'invalid_request',
    'The body has a key "__proto__" or "constructor.prototype", which is not taken.',
    {
      cause: error,
    },
  );
}
