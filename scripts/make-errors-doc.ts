import { ERRORS, type ErrorKind } from '../src/contract/errors.ts';
import { makePage } from './lib/made-page.ts';

/** Where the page stands. */
export const ERRORS_DOC = new URL('../docs/errors.md', import.meta.url);

const WHO: Readonly<Record<ErrorKind['fault'], string>> = {
  caller: 'you',
  us: 'Hatch',
  host: 'the host',
};

/** The page that explains every error code, made from the catalogue: `docs/errors.md`. */
export function errorsDoc(): string {
  const kinds: readonly (readonly [string, ErrorKind])[] = Object.entries(ERRORS);
  const rows = kinds.map(
    ([code, { status, fault, retryable, meaning }]) =>
      `| \`${code}\` | ${status} | ${WHO[fault]} | ${retryable ? 'yes' : 'no'} | ${meaning} |`,
  );
  return `# Errors

<!-- Made from src/contract/errors.ts by scripts/make-errors-doc.ts; change it there. -->

Every answer that is not a success has this body, whatever the path:

\`\`\`json
{
  "error": "\\"vcpu_count\\" must be a whole number from 1 to 32; it is 64.",
  "code": "invalid_request",
  "details": { "field": "vcpu_count", "minimum": 1, "maximum": 32 },
  "request_id": "req-5f0c2a9d41e7b836"
}
\`\`\`

- \`error\` is for people: what is wrong and what to do about it. Its words may change.
- \`code\` is for programs. A code is never renamed.
- \`details\` says what the code is about. Of \`invalid_request\`, \`field\` is the field's name, with dots for what lies inside
  another (\`idle.timeout_seconds\`, \`ssh_authorized_keys.0\`), and the limits stand beside it.
- \`request_id\` is also in the header \`X-Request-Id\` and in the server's log.

"Again" says whether the same request may succeed later without anyone changing anything.

| code | status | who can do something | again | meaning |
|---|---|---|---|---|
${rows.join('\n')}
`;
}

await makePage(import.meta.url, {
  at: ERRORS_DOC,
  make: errorsDoc,
  from: 'src/contract/errors.ts',
  by: 'scripts/make-errors-doc.ts',
});
