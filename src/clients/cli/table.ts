import Table from 'cli-table3';

const NO_BORDERS = {
  ...{ top: '', 'top-mid': '', 'top-left': '', 'top-right': '' },
  ...{ bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '' },
  ...{ left: '', 'left-mid': '', mid: '', 'mid-mid': '', right: '', 'right-mid': '', middle: '   ' },
};

/** Rows under headings, in columns as wide as their widest cell, without lines. No line break at its end. */
export function formatTable(
  headings: readonly string[],
  rows: readonly (readonly (string | number | undefined)[])[],
): string {
  const table = new Table({
    head: [...headings],
    chars: NO_BORDERS,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  });
  for (const row of rows) table.push(row.map((cell) => oneLine(String(cell ?? '-'))));
  return trimLines(table.toString());
}

/** Names and values, one a line; what has no value is left out. No line break at its end. */
export function formatFields(fields: Readonly<Record<string, string | number | undefined>>): string {
  const known = Object.entries(fields).filter(([, value]) => value !== undefined);
  const width = Math.max(0, ...known.map(([name]) => name.length));
  return known.map(([name, value]) => `${name.padEnd(width)}   ${oneLine(String(value))}`).join('\n');
}

/** What comes from a guest or another person must not move the cursor of a terminal. */
export function oneLine(text: string): string {
  return [...text]
    .map((char) => (char < ' ' || (char >= '\u007f' && char <= '\u009f') ? ' ' : char))
    .join('');
}

function trimLines(text: string): string {
  return text
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}
