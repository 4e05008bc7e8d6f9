import { createCipheriv, createDecipheriv, createSecretKey, hkdfSync, type KeyObject } from 'node:crypto';
import { BlobError } from './blob-error.ts';
import type { AccountKeys, SealKey } from './keys.ts';

/**
 * AES-256-GCM. Every pack and every manifest has a key of its own, made of the account's key and its id; within it a
 * nonce is a number that is used once. That is why an id stands for one sequence of bytes and never for another.
 */
export const TAG = 16;
/** Numbers no frame has. */
export const TRAILER_NONCE = 0xffff_ffff;
export const MANIFEST_NONCE = 0xffff_fffe;
/** What stands in a header where no key is. */
export const NO_KEY_ID = new Uint8Array(8);

/** The key of one pack or manifest. */
export function objectKey(seal: SealKey, id: Uint8Array): KeyObject {
  const key = hkdfSync('sha256', seal.key, id, 'hatch object 1', 32);
  return createSecretKey(Buffer.from(key));
}

/** The cipher text and its tag. */
export function seal(key: KeyObject, nonce: number, aad: Uint8Array, plain: Uint8Array): Buffer {
  const cipher = createCipheriv('aes-256-gcm', key, nonceOf(nonce)).setAAD(aad);
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

/** The plain text, or undefined when a bit of it, of its tag or of `aad` is not as it was. */
export function unseal(
  key: KeyObject,
  nonce: number,
  aad: Uint8Array,
  sealed: Uint8Array,
): Buffer | undefined {
  if (sealed.length < TAG) return undefined;
  const end = sealed.length - TAG;
  const cipher = createDecipheriv('aes-256-gcm', key, nonceOf(nonce), { authTagLength: TAG });
  cipher.setAAD(aad).setAuthTag(sealed.subarray(end));
  const plain = cipher.update(sealed.subarray(0, end));
  try {
    cipher.final();
    return plain;
  } catch {
    return undefined;
  }
}

/** The account's key, when it is the one a header names. Throws BlobError (`wrong_key`) saying which key is wanted. */
export function sealKeyFor(keys: AccountKeys, keyId: Uint8Array, what: string): SealKey {
  const wanted = Buffer.from(keyId).toString('hex');
  if (!keys.seal)
    throw new BlobError(
      'wrong_key',
      `${what} is encrypted, and no key is configured: set HATCH_SNAPSHOT_KEY_FILE`,
    );
  const held = Buffer.from(keys.seal.id).toString('hex');
  if (held !== wanted)
    throw new BlobError(
      'wrong_key',
      `${what} is encrypted under the key ${wanted}, and the account's key is ${held}`,
    );
  return keys.seal;
}

function nonceOf(number: number): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32BE(number, 8);
  return nonce;
}
