import { invalid } from '../model/failure.ts';

/** One page of rows that are kept oldest first, newest first. Throws `invalid_request` for an `after` that is not there. */
export function pageOf<T extends { readonly id: string }>(
  rows: readonly T[],
  page: { readonly limit: number; readonly after?: string | undefined },
): readonly T[] {
  const newest = rows.toReversed();
  const start = page.after === undefined ? 0 : newest.findIndex(({ id }) => id === page.after) + 1;
  if (page.after !== undefined && start === 0)
    throw invalid('after', `There is no "${page.after}" to go on after.`);
  return newest.slice(start, start + page.limit);
}
