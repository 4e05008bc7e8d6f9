/** Where apt on this machine fetches Debian from (sources.list(5)), and how it reaches it. */
export interface DebianMirrors {
  readonly archive: string;
  readonly security: string;
}

/** What anyone can reach who can reach Debian at all. */
export const PUBLIC_MIRRORS: DebianMirrors = {
  archive: 'http://deb.debian.org/debian',
  security: 'http://deb.debian.org/debian-security',
};

interface Entry {
  readonly uri: string;
  readonly suites: readonly string[];
}

const SUITES =
  /^(bullseye|bookworm|trixie|forky|sid|oldstable|stable|testing|unstable)(?:\/updates|-security)?$/;

/**
 * The mirrors named in the machine's own source files (their text, in either format), else the public ones: behind a
 * firewall only one's own mirror answers. A source of another distribution is none of Debian.
 */
export function debianMirrors(
  files: readonly { readonly name: string; readonly text: string }[],
): DebianMirrors {
  const entries = files.flatMap(({ name, text }) =>
    name.endsWith('.sources') ? fromDeb822(text) : fromLines(text),
  );
  const debian = entries.filter(({ suites }) => suites.some((suite) => SUITES.test(suite)));
  const isSecurity = ({ uri, suites }: Entry): boolean =>
    /debian-security\/?$/.test(uri) || suites.every((suite) => /(\/updates|-security)$/.test(suite));
  const archive = debian.find((entry) => !isSecurity(entry) && /\/debian\/?$/.test(entry.uri));
  const security = debian.find(isSecurity);
  return {
    archive: trimmed(archive?.uri) ?? PUBLIC_MIRRORS.archive,
    security: trimmed(security?.uri) ?? PUBLIC_MIRRORS.security,
  };
}

/** The lines apt gets to build the image from. */
export function buildSources(mirrors: DebianMirrors, suite: string, keyring: string): readonly string[] {
  const signed = `[signed-by=${keyring}]`;
  return [
    `deb ${signed} ${mirrors.archive} ${suite} main`,
    `deb ${signed} ${mirrors.archive} ${suite}-updates main`,
    `deb ${signed} ${mirrors.security} ${suite}-security main`,
  ];
}

/** Of `apt-config dump`, what says how to reach a mirror: proxies, certificates, clocks that are not to be trusted. */
export function transportOptions(dump: string): readonly string[] {
  return dump
    .split('\n')
    .filter((line) =>
      /^Acquire::(?:(?:https?|tor)::\S*(?:Proxy|CaInfo|CaPath|SslCert|SslKey|Timeout)\S*|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date) ".+";$/i.test(
        line,
      ),
    );
}

function trimmed(uri: string | undefined): string | undefined {
  return uri?.replace(/\/+$/, '');
}

/** One line a source: `deb [options] uri suite component...`. */
function fromLines(text: string): Entry[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)/.exec(line);
    const [, uri, suite] = match ?? [];
    return uri !== undefined && suite !== undefined && isFetched(uri) ? [{ uri, suites: [suite] }] : [];
  });
}

/** Paragraphs of `Key: value` (deb822(5)). */
function fromDeb822(text: string): Entry[] {
  const noComments = text
    .split('\n')
    .filter((line) => !line.startsWith('#'))
    .join('\n');
  return noComments.split(/\n\s*\n/).flatMap((paragraph) => {
    const field = (name: string): readonly string[] => {
      const match = new RegExp(`^${name}:((?:.*)(?:\\n[ \\t].*)*)`, 'im').exec(paragraph);
      return (match?.[1] ?? '').split(/\s+/).filter(Boolean);
    };
    if (!field('Types').includes('deb') || field('Enabled')[0] === 'no') return [];
    return field('URIs')
      .filter(isFetched)
      .map((uri) => ({ uri, suites: field('Suites') }));
  });
}

/** Not from a disc or a folder of the machine, which may not hold the suite. */
function isFetched(uri: string): boolean {
  return /^(?:https?|tor\+https?):\/\//.test(uri);
}
