import { createHmac, randomInt } from 'node:crypto';

declare const brand: unique symbol;
type Branded<Kind extends string> = string & { readonly [brand]: Kind };

export type VmId = Branded<'vm'>;
export type SnapshotId = Branded<'snap'>;
export type RouteId = Branded<'rt'>;
export type KeyId = Branded<'key'>;
export type OperationId = Branded<'op'>;
export type EventId = Branded<'evt'>;
export type AccountId = Branded<'acct'>;
export type LayerId = Branded<'layer'>;
/** `img-<name>`: chosen by people, unique within an account. */
export type ImageId = Branded<'img'>;
/** `tpl-<name>`: chosen by people, unique within an account. */
export type TemplateId = Branded<'tpl'>;

interface MadeIds {
  vm: VmId;
  snap: SnapshotId;
  rt: RouteId;
  key: KeyId;
  op: OperationId;
  evt: EventId;
  acct: AccountId;
  layer: LayerId;
}
export type IdKind = keyof MadeIds;

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';
const MADE = /^(vm|snap|rt|key|op|evt|acct|layer)-[a-z0-9]{12}$/;
const NAMED = /^(img|tpl)-[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** Makes a fresh id: the kind, a dash and 12 random lower-case letters or digits (62 bits). */
export function newId<K extends IdKind>(kind: K): MadeIds[K] {
  let text: string = kind + '-';
  for (let i = 0; i < 12; i++) text += ALPHABET.charAt(randomInt(ALPHABET.length));
  return text as MadeIds[K];
}

/** Makes ids of any kind. */
export type MakeId = typeof newId;

/**
 * Ids that are the same each time for the same secret, in the order they are asked for, each kind by itself: what is done again after a
 * crash makes the same things.
 */
export function idsFrom(secret: string): MakeId {
  const counts = new Map<IdKind, number>();
  return <K extends IdKind>(kind: K) => {
    const count = counts.get(kind) ?? 0;
    counts.set(kind, count + 1);
    // 12 bytes of 256 values for 36 letters: a little uneven, and as hard to guess as the secret.
    const bytes = createHmac('sha256', secret).update(`${kind} ${count}`).digest().subarray(0, 12);
    return `${kind}-${[...bytes].map((byte) => ALPHABET.charAt(byte % ALPHABET.length)).join('')}` as MadeIds[K];
  };
}

/** Reads an id of the given kind from outside; undefined when it is not one. */
export function parseId<K extends IdKind>(kind: K, text: string): MadeIds[K] | undefined {
  return MADE.exec(text)?.[1] === kind ? (text as MadeIds[K]) : undefined;
}

/** Reads an image's id (`img-<name>`); undefined when it is not one. */
export function parseImageId(text: string): ImageId | undefined {
  return NAMED.exec(text)?.[1] === 'img' ? (text as ImageId) : undefined;
}

/** Reads a template's id (`tpl-<name>`); undefined when it is not one. */
export function parseTemplateId(text: string): TemplateId | undefined {
  return NAMED.exec(text)?.[1] === 'tpl' ? (text as TemplateId) : undefined;
}

/** Whether a text has the shape of any id, so that a name may not be mistaken for one. */
export function looksLikeId(text: string): boolean {
  return /^(vm|snap|rt|key|op|evt|acct|layer|img|tpl)-/.test(text);
}
