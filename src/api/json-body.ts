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
      done(null, value);
    });
  });
  app.addHook('preValidation', async (request) => {
    const schema = request.routeOptions.schema;
    if (request.body === undefined && schema?.body !== undefined) request.body = {};
  });
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
