/**
 * The candidate a person most likely meant by `text`: at most a third of its letters apart (at least one), by edits of one
 * letter; undefined when none is near. Ties go to the first.
 */
export function nearest(text: string, candidates: readonly string[]): string | undefined {
  if (text.length > 64) return undefined;
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(text.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(text.toLowerCase().replaceAll('-', '_'), candidate);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best ?? candidates.find((candidate) => text.length >= 3 && candidate.startsWith(text.toLowerCase()));
}

/** How many insertions, deletions and replacements of a letter lead from one text to the other (Levenshtein). */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, i) => i);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
