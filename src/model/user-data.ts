import { CST, isAlias, isMap, isSeq, Lexer, LineCounter, parseDocument, visit } from 'yaml';
import { Failure, invalid } from './failure.ts';

/** Most bytes of user_data, as UTF-8. */
export const USER_DATA_BYTES = 256 * 1024;

/** How deeply brackets, or marks on one line, may lie in each other. */
const MOST_NESTED = 100;

/** What cloud-init knows user data by: its beginning, in any case, white space before it passed over. */
const FORMATS = [
  { start: '#cloud-config-archive', kind: 'cloud-config-archive' },
  { start: '#cloud-config-jsonp', kind: 'cloud-config-jsonp' },
  { start: '#cloud-config', kind: 'cloud-config' },
  { start: '#cloud-boothook', kind: 'boothook' },
  { start: '#part-handler', kind: 'part-handler' },
  { start: '#include-once', kind: 'include' },
  { start: '#include', kind: 'include' },
  { start: '## template: jinja', kind: 'jinja' },
  { start: '#!', kind: 'script' },
] as const;

export type UserDataKind = (typeof FORMATS)[number]['kind'] | 'mime';

const KNOWN =
  '"#cloud-config" (YAML), "#!" (a script), a MIME message with a "MIME-Version" header, "#include", "#cloud-boothook", ' +
  '"#cloud-config-archive", "#cloud-config-jsonp", "#part-handler" or "## template: jinja"';

/**
 * Finds out what cloud-init will take a user_data for, as cloud-init itself does
 * (https://docs.cloud-init.io/en/latest/explanation/format.html), and refuses what it would pass over or could not read:
 * an unknown beginning, a MIME message without its version, `#cloud-config` that is not a YAML mapping. Throws
 * `too_large` over 256 KiB and `invalid_request` naming line and column otherwise. Nothing of the text is put into a
 * message: it holds secrets. The text is never changed.
 */
export function checkUserData(text: string): UserDataKind {
  const bytes = Buffer.byteLength(text);
  if (bytes > USER_DATA_BYTES)
    throw new Failure(
      'too_large',
      `"user_data" may be at most ${USER_DATA_BYTES} bytes (256 KiB); it has ${bytes}. Let it fetch the rest with "#include".`,
      { details: { field: 'user_data', limit: USER_DATA_BYTES, bytes } },
    );
  if (!text.isWellFormed())
    throw invalid('user_data', '"user_data" holds half a surrogate pair, which cannot be written as UTF-8.');
  if (text.includes('\0')) throw invalid('user_data', '"user_data" holds a NUL character; it must be text.');

  const start = text.trimStart().slice(0, 64).toLowerCase();
  const kind = FORMATS.find((format) => start.startsWith(format.start))?.kind;
  if (kind === 'cloud-config') checkYaml(text, '#cloud-config', 'mapping');
  if (kind === 'cloud-config-archive') checkYaml(text, '#cloud-config-archive', 'list');
  if (kind !== undefined) return kind;
  // cloud-init looks for the header in the first 4096 bytes and takes the whole for a message when it is there.
  if (/^mime-version:/im.test(text.slice(0, 4096))) return 'mime';
  throw invalid(
    'user_data',
    /^content-type:/i.test(start)
      ? '"user_data" begins like a MIME message but has no "MIME-Version: 1.0" header, and cloud-init would pass it over.'
      : `"user_data" has no format cloud-init knows. It must begin with ${KNOWN}.`,
  );
}

/**
 * Refuses YAML that is broken or is not of the expected kind. Keys given twice pass, as they do in cloud-init. An empty
 * document passes: it asks for nothing.
 */
function checkYaml(text: string, header: string, kind: 'mapping' | 'list'): void {
  const lines = new LineCounter();
  const at = (offset: number): { line: number; column: number } => {
    const { line, col } = lines.linePos(offset);
    return { line, column: col };
  };
  const tooDeep = invalid(
    'user_data',
    `"user_data" is ${header} but its YAML is nested too deeply to be read.`,
  );
  if (isNestedTooDeeply(text)) throw tooDeep;
  let document;
  try {
    document = parseDocument(text, {
      version: '1.1',
      lineCounter: lines,
      prettyErrors: false,
      uniqueKeys: false,
      logLevel: 'error',
    });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw tooDeep;
  }
  const problem = document.errors[0];
  if (problem) {
    const place = at(problem.pos[0]);
    throw invalid(
      'user_data',
      `"user_data" is ${header} but not YAML: line ${place.line}, column ${place.column}: ${sentence(problem.code)}`,
      place,
    );
  }
  const anchors = new Set<string>();
  visit(document, {
    Node: (_key, node) => {
      if (!isAlias(node)) {
        if (node.anchor !== undefined) anchors.add(node.anchor);
        return;
      }
      if (anchors.has(node.source)) return;
      const place = at(node.range?.[0] ?? 0);
      throw invalid(
        'user_data',
        `"user_data" is ${header} but not YAML: line ${place.line}, column ${place.column}: an alias without its anchor.`,
        place,
      );
    },
  });
  const root = document.contents;
  if (root === null || (kind === 'mapping' ? isMap(root) : isSeq(root))) return;
  if (!isMap(root) && !isSeq(root) && !isAlias(root) && root.value === null) return;
  throw invalid(
    'user_data',
    kind === 'mapping'
      ? '"user_data" is #cloud-config but not a YAML mapping: it must hold lines such as "packages: [git]".'
      : '"user_data" is #cloud-config-archive but not a YAML list.',
  );
}

/**
 * Whether brackets, or marks of lists and keys on one line, lie in each other deeper than anybody writes. The parser finds out, too, but
 * takes seconds over 256 KiB of them, in which nobody is served.
 */
function isNestedTooDeeply(text: string): boolean {
  let [flow, marks] = [0, 0];
  for (const lexeme of new Lexer().lex(text)) {
    const type = CST.tokenType(lexeme);
    if (type === 'flow-seq-start' || type === 'flow-map-start') flow++;
    else if (type === 'flow-seq-end' || type === 'flow-map-end') flow--;
    else if (type === 'seq-item-ind' || type === 'explicit-key-ind') marks++;
    else if (type === 'newline') marks = 0;
    if (flow > MOST_NESTED || marks > MOST_NESTED) return true;
  }
  return false;
}

/** What is wrong, by the parser's code: its own messages quote the text, which may be a secret. */
function sentence(code: string): string {
  switch (code) {
    case 'TAB_AS_INDENT':
      return 'a tab where only spaces may indent.';
    case 'BAD_INDENT':
      return 'the indentation fits nothing above it, or a bracket above it is not closed.';
    case 'BLOCK_AS_IMPLICIT_KEY':
    case 'MULTILINE_IMPLICIT_KEY':
    case 'BLOCK_IN_FLOW':
      return 'a value on several lines where a key was expected; quote it, or look for a missing line break or colon.';
    case 'MISSING_CHAR':
      return 'a closing quote, bracket, colon or comma is missing.';
    case 'MULTIPLE_DOCS':
      return 'a second document begins; there may be only one.';
    case 'RESOURCE_EXHAUSTION':
      return 'nested too deeply.';
    case 'BAD_ALIAS':
      return 'an alias without its anchor.';
    default:
      return `${code.toLowerCase().replaceAll('_', ' ')}.`;
  }
}
