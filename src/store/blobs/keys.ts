import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createSecretKey,
  hkdfSync,
  randomBytes,
  type KeyObject,
} from 'node:crypto';
import { BlobError } from './blob-error.ts';

/**
 * The operator's key (HATCH_SNAPSHOT_KEY_FILE): it only wraps the accounts' secrets, so it can be changed without
 * rewriting what is stored.
 */
export interface MasterKey {
  /** 16 hexadecimal digits that say which key it is and nothing else about it. */
  readonly id: string;
  readonly key: KeyObject;
}

/** What an account's chunks are named and sealed with. */
export interface AccountKeys {
  readonly account: string;
  /** HMAC key of chunk ids: equal chunks are one only within an account. */
  readonly dedup: KeyObject;
  /** The key its packs and manifests are sealed with; undefined when they are not. */
  readonly seal: SealKey | undefined;
}

export interface SealKey {
  /** 8 bytes that say which key it is: in the header of everything sealed with it. */
  readonly id: Uint8Array;
  readonly key: KeyObject;
}

/** The keys of an account, for packs and manifests as they come. Throws BlobError (`wrong_key`) when they cannot be had. */
export type KeyRing = (account: string) => Promise<AccountKeys>;

const SECRET = 32;
const NONCE = 12;
const TAG = 16;
const TEXT = /^hatch-secret:1:(plain|[0-9a-f]{16}):([A-Za-z0-9_-]+)$/;

/**
 * Reads a key file's content: 32 bytes, as they are, or in hexadecimal (64 digits) or base64, with or without a line end.
 * Throws BlobError (`wrong_key`) saying what is expected.
 */
export function parseMasterKey(content: Uint8Array): MasterKey {
  const text = Buffer.from(content).toString('latin1').trim();
  let raw: Buffer | undefined;
  if (/^[0-9a-fA-F]{64}$/.test(text)) raw = Buffer.from(text, 'hex');
  else if (/^[A-Za-z0-9+/_-]{43}=?$/.test(text)) raw = Buffer.from(text, 'base64');
  else if (content.length === SECRET) raw = Buffer.from(content);
  if (raw?.length !== SECRET)
    throw new BlobError(
      'wrong_key',
      'the snapshot key file must hold 32 random bytes, in hexadecimal or base64: openssl rand -hex 32 makes one',
    );
  const id = Buffer.from(hkdfSync('sha256', raw, '', 'hatch master id 1', 8)).toString('hex');
  return { id, key: createSecretKey(derive(raw, '', 'hatch master wrap 1')) };
}

/**
 * A fresh secret for an account, as the text that its row keeps for as long as the account has snapshots: wrapped by the
 * master key, or as it is when there is none. Removing every copy of the text makes what is sealed under it unreadable.
 */
export function newAccountSecret(account: string, master: MasterKey | undefined): string {
  return wrap(account, randomBytes(SECRET), master);
}

/**
 * The keys of an account, from its secret's text. With a master key new packs and manifests are sealed; without one they
 * are not, and only the dedup key is used. Throws `wrong_key` when the text is wrapped by another master key or by one
 * that is not given, and `damaged` when it is no secret of this account.
 */
export function accountKeys(account: string, secret: string, master: MasterKey | undefined): AccountKeys {
  const raw = unwrap(account, secret, master);
  const seal = derive(raw, account, 'hatch seal 1');
  return {
    account,
    dedup: createSecretKey(derive(raw, account, 'hatch dedup 1')),
    seal: master && {
      id: createHash('sha256').update(seal).digest().subarray(0, 8),
      key: createSecretKey(seal),
    },
  };
}

/** The same secret wrapped by another master key: when one is configured for the first time, or changed. */
export function rewrapAccountSecret(
  account: string,
  secret: string,
  from: MasterKey | undefined,
  to: MasterKey | undefined,
): string {
  return wrap(account, unwrap(account, secret, from), to);
}

/** The id of the master key that wraps a secret; undefined when none does. Throws `damaged` for what is no secret. */
export function wrappedBy(secret: string): string | undefined {
  const id = parts(secret).id;
  return id === 'plain' ? undefined : id;
}

function wrap(account: string, raw: Buffer, master: MasterKey | undefined): string {
  if (!master) return `hatch-secret:1:plain:${raw.toString('base64url')}`;
  const nonce = randomBytes(NONCE);
  const cipher = createCipheriv('aes-256-gcm', master.key, nonce).setAAD(Buffer.from(account));
  const sealed = Buffer.concat([nonce, cipher.update(raw), cipher.final(), cipher.getAuthTag()]);
  return `hatch-secret:1:${master.id}:${sealed.toString('base64url')}`;
}

function unwrap(account: string, secret: string, master: MasterKey | undefined): Buffer {
  const { id, bytes } = parts(secret);
  if (id === 'plain') {
    if (bytes.length !== SECRET) throw noSecret(account);
    return bytes;
  }
  if (!master)
    throw new BlobError(
      'wrong_key',
      `the snapshots of ${account} are encrypted under the key ${id}, and no key is configured: set HATCH_SNAPSHOT_KEY_FILE`,
    );
  if (master.id !== id)
    throw new BlobError(
      'wrong_key',
      `the snapshots of ${account} are encrypted under the key ${id}, and HATCH_SNAPSHOT_KEY_FILE holds the key ${master.id}`,
    );
  if (bytes.length !== NONCE + SECRET + TAG) throw noSecret(account);
  const cipher = createDecipheriv('aes-256-gcm', master.key, bytes.subarray(0, NONCE), {
    authTagLength: TAG,
  });
  cipher.setAAD(Buffer.from(account)).setAuthTag(bytes.subarray(-TAG));
  try {
    return Buffer.concat([cipher.update(bytes.subarray(NONCE, -TAG)), cipher.final()]);
  } catch (error) {
    throw noSecret(account, error);
  }
}

function parts(secret: string): { readonly id: string; readonly bytes: Buffer } {
  const found = TEXT.exec(secret);
  if (!found?.[1] || !found[2]) throw noSecret();
  return { id: found[1], bytes: Buffer.from(found[2], 'base64url') };
}

function noSecret(account?: string, cause?: unknown): BlobError {
  return new BlobError(
    'damaged',
    `what is kept as the snapshot secret${account ? ` of ${account}` : ''} is not one`,
    cause,
  );
}

function derive(raw: Uint8Array, salt: string, info: string): Buffer {
  return Buffer.from(hkdfSync('sha256', raw, salt, info, 32));
}
