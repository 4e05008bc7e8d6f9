/** A rule of the house that a text can break, where lint has no rule for it. */
interface TextRule {
  readonly pattern: RegExp;
  readonly says: string;
  /** Only for files whose path matches. */
  readonly where?: RegExp;
}

const TEST = /\.test\.ts$/;
const LONGEST = 400;

const RULES: readonly TextRule[] = [
  { pattern: /\b(TODO|FIXME|XXX)\b/, says: 'unfinished work belongs into an issue' },
  { pattern: /eslint-disable|@ts-(ignore|nocheck|expect-error)/, says: 'the checks are not switched off' },
  {
    pattern: /\b(test|it|describe|suite|t)\.(skip|todo|only)\b/,
    says: 'a test runs or fails; it is not skipped, put off or run alone',
    where: TEST,
  },
  {
    pattern: /\b(test|it|describe|suite)\([^()]*\{[^{}()]*\b(skip|todo|only)\b\s*[:,}]/,
    says: 'a test runs or fails; it is not skipped, put off or run alone',
    where: TEST,
  },
  {
    pattern: /\bsetTimeout\(/,
    says: 'a test waits for what it waits for, never for a time',
    where: /^src\/.*\.test\.ts$/,
  },
];

/** What in a file's text breaks the rules of the house, each as `path:line sentence`; empty when nothing does. */
export function breaches(path: string, text: string): readonly string[] {
  const lines = text.replace(/\n$/, '').split('\n');
  const found: string[] = [];
  if (lines.length > LONGEST)
    found.push(
      `${path} has ${lines.length} lines; ${LONGEST} are the most, so it holds two ideas: part them`,
    );
  for (const { pattern, says, where } of RULES) {
    if (where && !where.test(path)) continue;
    lines.forEach((line, index) => {
      if (pattern.test(line)) found.push(`${path}:${index + 1} ${says}: ${line.trim()}`);
    });
  }
  return found;
}
