import { domainToASCII, domainToUnicode } from 'node:url';

/** Host names as HTTP clients send them: letters, digits and dashes in labels, without regard to case, kept in lower case. */

const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
/** How the last label of an IPv4 address looks, however it is written: clients take such a name for an address. */
const NUMBER = /^([0-9]+|0x[0-9a-f]*)$/;

/** Whether a text is a host name of at least two labels in lower case, its international labels in good punycode. */
export function isHostName(text: string): boolean {
  const labels = text.split('.');
  return (
    text.length <= 253 &&
    labels.length >= 2 &&
    labels.every((label) => LABEL.test(label)) &&
    !NUMBER.test(labels.at(-1) ?? '') &&
    isGoodPunycode(text)
  );
}

/** Whether the international labels of a name, in lower case, are as a browser would write them. */
export function isGoodPunycode(name: string): boolean {
  const labels = name.split('.').filter((label) => label.startsWith('xn--'));
  return labels.every((label) => {
    // What cannot be read comes back as it was.
    const read = domainToUnicode(label);
    return read !== label && domainToASCII(read) === label;
  });
}

/** Whether a name, in lower case, is the domain or lies under it. */
export function isWithin(name: string, domain: string): boolean {
  return name === domain || name.endsWith(`.${domain}`);
}

/** Why a text is no host name, as the end of a sentence that begins with its field; undefined when it is one. */
export function whyNotHostName(text: string): string | undefined {
  const name = text.toLowerCase();
  if (isHostName(name)) return undefined;
  const example = 'a whole host name such as shop.example.com';
  if (/[^\0-\x7f]/.test(text)) {
    const ascii = domainToASCII(text);
    const hint = isHostName(ascii) ? `write it as ${ascii}` : 'write it as xn--...';
    return `must be in ASCII; a name with other letters is given as punycode: ${hint}.`;
  }
  if (/:\/\/|\//.test(name)) return `must be ${example} alone, without "http://" and without a path.`;
  if (/^\[?[0-9a-f]*:[0-9a-f:.]*:[0-9a-f.]*\]?$/.test(name) || NUMBER.test(name.split('.').at(-1) ?? ''))
    return `must be ${example}, not an address.`;
  if (name.includes(':')) return `must be ${example}, without a port.`;
  if (name.includes('*')) return `must be ${example}; wildcards are not taken, give each name a route.`;
  if (name.endsWith('.')) return `must be ${example}, without a dot at its end.`;
  if (name.length > 253) return `may have at most 253 characters; it has ${name.length}.`;
  if (LABEL.test(name))
    return `must be ${example}; a single word is a name under the server's own domain: give it as "subdomain".`;
  if (!isGoodPunycode(name)) return `must be ${example}; its label that begins with "xn--" is no punycode.`;
  return `must be ${example}: labels of 1 to 63 letters, digits and inner dashes, with dots between.`;
}
