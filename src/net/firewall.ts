import type { VmId } from '../base/ids.ts';
import type { Run } from '../host/run.ts';
import {
  elementsOf,
  ownerOf,
  readElements,
  renderChange,
  renderNew,
  renderTables,
  tableName,
  type Entry,
  type Firewall,
} from './rules.ts';
import { nftApply, nftList, nftShow } from './tools.ts';

/** How the two tables are at a moment. */
interface Tables {
  /** They are there with the rules we made. */
  readonly intact: boolean;
  readonly elements: ReadonlySet<string>;
}

/** The two nftables tables as they are in the kernel. Callers hold the network's lock. */
export class FirewallTables {
  readonly #run: Run;
  readonly #firewall: Firewall;
  /** How nft shows the tables, without elements, when we last made them; undefined: we have not yet. */
  #made: string | undefined;

  constructor(run: Run, firewall: Firewall) {
    this.#run = run;
    this.#firewall = firewall;
  }

  /** Makes both tables anew with exactly these entries, in one transaction: connections go on. */
  async replace(entries: readonly Entry[]): Promise<void> {
    await this.#replace(new Set(entries.flatMap(elementsOf)));
  }

  /** Gives VMs exactly these entries; where the tables are not as they were made, they are made anew with `all`. */
  async put(entries: readonly Entry[], all: readonly Entry[]): Promise<void> {
    const should = new Set(entries.flatMap(elementsOf));
    if (await this.#putNew(should)) return;
    const now = await this.#look();
    if (!now.intact) return this.replace(all);
    const owners = new Set<string>(entries.map(({ vmId }) => vmId));
    const are = new Set([...now.elements].filter((element) => owners.has(ownerOf(element))));
    await nftApply(this.#run, renderChange(this.#firewall.bridge, are, should));
  }

  /** Adds elements by one program, as can be done as a rule: nobody has one of them yet, and the tables are as they were made. */
  async #putNew(elements: ReadonlySet<string>): Promise<boolean> {
    const { bridge } = this.#firewall;
    if (this.#made === undefined) return false;
    try {
      return this.#isAsMade(await nftShow(this.#run, renderNew(bridge, elements)));
    } catch {
      // Why, who looks will find.
      return false;
    }
  }

  /** Removes all entries of these VMs. */
  async drop(vmIds: ReadonlySet<VmId>): Promise<void> {
    const names = new Set<string>(vmIds);
    const gone = new Set([...(await this.#elements())].filter((element) => names.has(ownerOf(element))));
    await nftApply(this.#run, renderChange(this.#firewall.bridge, gone, new Set()));
  }

  /**
   * Sees to it that the tables are as they were made, with the entries of `mine` and no others; those in `leave` keep what they
   * have, which is `left` where the tables are gone. Says what it did.
   */
  async mend(
    mine: readonly Entry[],
    left: readonly Entry[],
    leave: ReadonlySet<VmId>,
  ): Promise<readonly string[]> {
    const now = await this.#look();
    const names = new Set<string>(leave);
    const should = new Set(mine.flatMap(elementsOf));
    const kept = [...now.elements].filter((element) => names.has(ownerOf(element)));
    for (const element of kept) should.add(element);
    if (!now.intact) {
      if (kept.length === 0) for (const element of left.flatMap(elementsOf)) should.add(element);
      await this.#replace(should);
      return ['made the firewall tables anew'];
    }
    const change = renderChange(this.#firewall.bridge, now.elements, should);
    if (change === '') return [];
    await nftApply(this.#run, change);
    const differ = [...now.elements, ...should].filter(
      (element) => now.elements.has(element) !== should.has(element),
    );
    return [...new Set(differ.map(ownerOf))].map((name) => `mended the filter entries of ${name}`);
  }

  /** Whether both tables are there with the rules we made. */
  async intact(): Promise<boolean> {
    return this.#isAsMade(await this.#print());
  }

  /** The names of all that have entries. */
  async owners(): Promise<ReadonlySet<string>> {
    return new Set([...(await this.#elements())].map(ownerOf));
  }

  /** Removes both tables. */
  async remove(): Promise<void> {
    const name = tableName(this.#firewall.bridge);
    const lines = ['bridge', 'inet'].flatMap((family) => [
      `table ${family} ${name}`,
      `delete table ${family} ${name}`,
    ]);
    await nftApply(this.#run, lines.join('\n') + '\n');
    this.#made = undefined;
  }

  async #replace(elements: ReadonlySet<string>): Promise<void> {
    await nftApply(this.#run, renderTables(this.#firewall, elements));
    this.#made = await this.#print();
  }

  /** How the tables are. */
  async #look(): Promise<Tables> {
    const [print, elements] = await Promise.all([this.#print(), this.#elements()]);
    return { intact: this.#isAsMade(print), elements };
  }

  #isAsMade(print: string | undefined): boolean {
    return print !== undefined && print === this.#made;
  }

  /** Both tables as nft shows them, without elements; undefined when one is not there. */
  async #print(): Promise<string | undefined> {
    const name = tableName(this.#firewall.bridge);
    const [filter, inet] = await Promise.all(
      ['bridge', 'inet'].map((family) => nftShow(this.#run, `list table ${family} ${name}\n`)),
    );
    return filter === undefined || inet === undefined ? undefined : filter + inet;
  }

  async #elements(): Promise<ReadonlySet<string>> {
    const listing = await nftList(this.#run, 'table', 'bridge', tableName(this.#firewall.bridge));
    return readElements(listing ?? []);
  }
}
