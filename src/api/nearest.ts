/**
 * The candidate a person most likely meant by `text`: at most a third of its letters away (at least one) by slips of the
 * finger, or alike in its beginning; undefined when none is near. Ties go to the first.
 */
export function nearest(text: string, candidates: readonly string[]): string | undefined {
  if (text.length > 64) return undefined;
  const written = text.toLowerCase().replaceAll('-', '_');
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(text.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = slips(written, candidate);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  const beginning = written.slice(0, Math.max(3, written.length - 1));
  return (
    best ?? (written.length < 3 ? undefined : candidates.find((candidate) => candidate.startsWith(beginning)))
  );
}

/**
 * How many slips lead from one text to the other: a letter too many, one missing, one wrong, or two in the wrong order
 * (optimal string alignment distance).
 */
function slips(from: string, to: string): number {
  let before: number[] = [];
  let row = Array.from({ length: to.length + 1 }, (_, i) => i);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const wrong = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      const swapped =
        i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1]
          ? (before[j - 2] ?? 0) + 1
          : Infinity;
      next.push(Math.min(wrong, swapped, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    [before, row] = [row, next];
  }
  return row[to.length] ?? 0;
}
