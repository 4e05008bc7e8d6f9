import { invalid } from '../../model/failure.ts';
import type { Page } from '../store.ts';

/**
 * Where a page begins: the rows with a smaller `seq` than the one given back. `find` looks for the row `after` names, among
 * those the caller may see. Throws `invalid_request` naming `after` when there is none.
 */
export async function pageStart(
  page: Page,
  find: (after: string) => Promise<{ readonly seq: number } | undefined>,
): Promise<number> {
  if (page.after === undefined) return Number.MAX_SAFE_INTEGER;
  const last = await find(page.after);
  if (last) return last.seq;
  throw invalid(
    'after',
    `"after" must be the id of the last one of the page before; there is no "${page.after}" in this list (any more). Begin again without it.`,
  );
}
