import { generateKeyPair, randomBytes, type JsonWebKey } from 'node:crypto';
import { promisify } from 'node:util';

/** An SSH host key, both halves as OpenSSH has them in files. */
export interface HostKey {
  /** As in the file's name: `ssh_host_<kind>_key`. */
  readonly kind: 'ed25519' | 'ecdsa';
  /** What stands between the first and the last line of the private half's file, in one line. */
  readonly privateBody: string;
  /** `ssh-ed25519 AAAA... root@name` */
  readonly publicLine: string;
}

const generate = promisify(generateKeyPair);

/**
 * Makes a host key of each kind that costs nothing (an RSA key costs a second), in OpenSSH's format
 * (https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.key; the keys: RFC 8709 and RFC 5656).
 */
export async function newHostKeys(comment: string): Promise<readonly HostKey[]> {
  const [ed25519, ecdsa] = await Promise.all([generate('ed25519'), generate('ec', { namedCurve: 'P-256' })]);
  return [
    edwardsKey(ed25519.privateKey.export({ format: 'jwk' }), comment),
    ellipticKey(ecdsa.privateKey.export({ format: 'jwk' }), comment),
  ];
}

function edwardsKey({ d, x }: JsonWebKey, comment: string): HostKey {
  const [name, point] = [text('ssh-ed25519'), bytes(x)];
  // The private half holds the seed and, after it, the public half once more.
  const pair = Buffer.concat([bytes(d), point]);
  return keyOf('ed25519', [name, string(point)], [name, string(point), string(pair)], comment);
}

function ellipticKey({ d, x, y }: JsonWebKey, comment: string): HostKey {
  const head = [text('ecdsa-sha2-nistp256'), text('nistp256')];
  // Uncompressed (SEC 1, 2.3.3).
  const point = string(Buffer.concat([Buffer.of(4), bytes(x), bytes(y)]));
  return keyOf('ecdsa', [...head, point], [...head, point, positive(bytes(d))], comment);
}

function keyOf(
  kind: HostKey['kind'],
  publicFields: readonly Buffer[],
  privateFields: readonly Buffer[],
  comment: string,
): HostKey {
  const blob = Buffer.concat(publicFields);
  // Twice the same: whoever decrypts it sees that it worked. Nothing is encrypted here.
  const check = randomBytes(4);
  const secret = Buffer.concat([check, check, ...privateFields, text(comment)]);
  const padding = Buffer.from(Array.from({ length: (8 - (secret.length % 8)) % 8 }, (_, i) => i + 1));
  const file = Buffer.concat([
    Buffer.from('openssh-key-v1\0'),
    ...[text('none'), text('none'), text(''), uint32(1)],
    string(blob),
    string(Buffer.concat([secret, padding])),
  ]);
  const type = publicFields[0]?.subarray(4).toString() ?? '';
  return {
    kind,
    privateBody: file.toString('base64'),
    publicLine: `${type} ${blob.toString('base64')} ${comment}`,
  };
}

function bytes(part: string | undefined): Buffer {
  return Buffer.from(part ?? '', 'base64url');
}

function uint32(value: number): Buffer {
  const four = Buffer.alloc(4);
  four.writeUInt32BE(value);
  return four;
}

/** RFC 4251, 5: a length, and so many bytes. */
function string(value: Buffer): Buffer {
  return Buffer.concat([uint32(value.length), value]);
}

function text(value: string): Buffer {
  return string(Buffer.from(value));
}

/** RFC 4251, 5, `mpint`: no zeros in front, but for one that keeps it positive. */
function positive(value: Buffer): Buffer {
  const first = value.findIndex((byte) => byte !== 0);
  const digits = first === -1 ? Buffer.alloc(0) : value.subarray(first);
  return string((digits[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.of(0), digits]) : digits);
}
