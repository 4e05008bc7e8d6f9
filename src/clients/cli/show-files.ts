import type { FileChange, FileEntry, FileFacts, SnapshotDiff } from '../../contract/saved-file.ts';
import type { Io } from './io.ts';
import { formatTable, oneLine } from './table.ts';
import { formatBytes } from './words.ts';

/** What is in a folder of a snapshot, as a table sorted by name. */
export function showFiles(files: readonly FileEntry[]): string {
  if (files.length === 0) return 'The folder is empty.';
  return formatTable(
    ['MODE', 'OWNER', 'SIZE', 'MODIFIED', 'NAME'],
    files
      .toSorted((a, b) => (a.name < b.name ? -1 : 1))
      .map((file) => [
        modeOf(file),
        `${file.uid}:${file.gid}`,
        file.kind === 'file' ? formatBytes(file.size_bytes) : '-',
        file.modified_at.slice(0, 19).replace('T', ' '),
        nameOf(file),
      ]),
  );
}

/** What changed between two snapshots, a file a line: + added, - removed, ~ changed and in what. */
export function showDiff({ changes, truncated }: SnapshotDiff): string {
  if (changes.length === 0) return 'Nothing changed.';
  const lines = changes.map((change) =>
    oneLine(`${SIGNS[change.change]} ${change.path}${slash(change)}${inWhat(change)}`),
  );
  const more = truncated ? ['There are more. Look at a part: --path /folder, or raise --limit.'] : [];
  return [...lines, ...more].join('\n');
}

/**
 * Writes a file's content out. To a program, byte by byte as it is and no faster than it takes them; to a terminal as text in which
 * nothing moves the cursor: the file was written by a guest.
 */
export async function writeContent(
  { out, outBytes, terminal }: Pick<Io, 'out' | 'outBytes' | 'terminal'>,
  content: AsyncIterable<Uint8Array>,
): Promise<void> {
  const decoder = new TextDecoder();
  for await (const piece of content) {
    if (terminal.stdout) out(harmless(decoder.decode(piece, { stream: true })));
    else await outBytes(piece);
  }
  if (terminal.stdout) out(harmless(decoder.decode()));
}

const SIGNS = { added: '+', removed: '-', changed: '~' } as const;
const TYPES = { file: '-', folder: 'd', link: 'l', other: '?' } as const;

/** As `ls -l` writes it; bits beyond reading, writing and running as a digit before it would be more than most files have. */
function modeOf({ kind, mode }: FileFacts): string {
  const [special = 0, ...classes] = [...mode].map(Number);
  const letters = classes.map((bits, i) => {
    const [set, letter] = [(special & (4 >> i)) !== 0, i === 2 ? 't' : 's'];
    const run = bits & 1 ? (set ? letter : 'x') : set ? letter.toUpperCase() : '-';
    return `${bits & 4 ? 'r' : '-'}${bits & 2 ? 'w' : '-'}${run}`;
  });
  return `${TYPES[kind]}${letters.join('')}`;
}

function nameOf(file: FileEntry): string {
  const bytes = file.name_base64 === undefined ? '' : ` (base64 ${file.name_base64})`;
  const target = file.target === undefined ? '' : ` -> ${file.target}`;
  return `${file.name}${file.kind === 'folder' ? '/' : ''}${bytes}${target}`;
}

function slash({ before, after }: FileChange): string {
  return (after ?? before)?.kind === 'folder' ? '/' : '';
}

function inWhat({ differences, before, after }: FileChange): string {
  if (!before || !after) return '';
  const words = differences.map((difference) => {
    switch (difference) {
      case 'kind':
        return `${before.kind} -> ${after.kind}`;
      case 'size':
        return `${formatBytes(before.size_bytes)} -> ${formatBytes(after.size_bytes)}`;
      case 'mode':
        return `mode ${before.mode} -> ${after.mode}`;
      case 'owner':
        return `owner ${before.uid}:${before.gid} -> ${after.uid}:${after.gid}`;
      case 'unread':
        return 'maybe content (not compared)';
      case 'content':
        return after.target === undefined ? 'content' : `${before.target ?? ''} -> ${after.target}`;
      case 'times':
        return 'times';
    }
  });
  return `   ${words.join(', ')}`;
}

function harmless(text: string): string {
  return [...text].map((char) => (char === '\n' || char === '\t' ? char : oneLine(char))).join('');
}
