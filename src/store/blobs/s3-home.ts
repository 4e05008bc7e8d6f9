import { open } from 'node:fs/promises';
import { Readable } from 'node:stream';
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  type GetObjectCommandOutput,
} from '@aws-sdk/client-s3';
import { abortReason, systemClock, type Clock } from '../../base/clock.ts';
import { Slots } from '../../base/slots.ts';
import { BlobError, damaged, fromErrno, isBlobError } from './blob-error.ts';
import {
  checkBlobName,
  checkRange,
  isBlobName,
  type BlobHome,
  type BlobInfo,
  type BlobSource,
  type PutOptions,
} from './home.ts';
import { fromS3 } from './s3-errors.ts';

export interface S3Options {
  readonly bucket: string;
  /** What all names in the bucket begin with: empty, or with a slash at its end. */
  readonly prefix: string;
  /** undefined: AWS's own. With one, the bucket is part of the path: few others have a name in DNS for each. */
  readonly endpoint: string | undefined;
  readonly region: string;
  /** undefined: what AWS's own rules find, such as the role of the machine. */
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string } | undefined;
  /** Requests at once. */
  readonly atOnce?: number;
  /** How long a connection may say nothing. */
  readonly idleMs?: number;
  /** How long one call goes on trying when the store does not answer or asks to wait. */
  readonly patienceMs?: number;
  readonly clock?: Clock;
}

const FIRST_WAIT_MS = 200;
const LONGEST_WAIT_MS = 5_000;
const CONNECT_MS = 10_000;

/** A home that holds connections. */
export interface S3Home extends BlobHome {
  close(): void;
}

/**
 * A bucket of anything that speaks S3 as a home for blobs. Nothing is asked of it beyond single puts, ranges and lists: no
 * multipart uploads, no conditions, no checksums but the SHA-256 that every signature holds. It connects when it is first used.
 */
export function openS3Home(options: S3Options): S3Home {
  return new BucketHome(options);
}

class BucketHome implements S3Home {
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #slots: Slots;
  readonly #clock: Clock;
  readonly #patienceMs: number;

  constructor({ bucket, prefix, endpoint, region, credentials, ...limits }: S3Options) {
    const { atOnce = 16, idleMs = 30_000, patienceMs = 60_000, clock = systemClock } = limits;
    this.#bucket = bucket;
    this.#prefix = prefix;
    this.#slots = new Slots(atOnce);
    this.#clock = clock;
    this.#patienceMs = patienceMs;
    this.#client = new S3Client({
      region,
      ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
      ...(credentials === undefined ? {} : { credentials }),
      // Others than AWS do not know the newer checksums, nor bodies in signed pieces.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      // A stream can be sent once: we try again, with a new one.
      maxAttempts: 1,
      // It would write to standard error by itself; all there is to say is in what we throw.
      logger: { debug: quiet, info: quiet, warn: quiet, error: quiet },
      requestHandler: {
        connectionTimeout: CONNECT_MS,
        socketTimeout: idleMs,
        httpAgent: { keepAlive: true, maxSockets: atOnce },
        httpsAgent: { keepAlive: true, maxSockets: atOnce },
        // There are never more requests than slots, so there is nothing to warn of.
        socketAcquisitionWarningTimeout: 2 ** 30,
      },
    });
  }

  async put(name: string, source: BlobSource, { sha256, signal }: PutOptions): Promise<void> {
    checkBlobName(name);
    await this.#try(`${name} could not be kept`, signal, async (abort) => {
      const { body, bytes, close } = await openSource(source, name);
      try {
        const command = new PutObjectCommand({ ...this.#at(name), Body: body, ContentLength: bytes });
        // The signature covers it, so the store must check what arrives against it.
        command.middlewareStack.add(
          (next) => (args) => {
            if (hasHeaders(args.request)) args.request.headers['x-amz-content-sha256'] = sha256;
            return next(args);
          },
          { step: 'build' },
        );
        await this.#client.send(command, abort);
      } finally {
        close();
      }
    });
  }

  async get(
    name: string,
    { maxBytes, signal }: { readonly maxBytes: number; readonly signal?: AbortSignal },
  ): Promise<Buffer> {
    checkBlobName(name);
    return this.#try(`${name} could not be read`, signal, async (abort) => {
      const answer = await this.#client.send(new GetObjectCommand(this.#at(name)), abort);
      const bytes = answer.ContentLength ?? 0;
      if (bytes <= maxBytes) return readBody(answer, name, bytes);
      endBody(answer);
      throw new BlobError('refused', `${name} has ${bytes} bytes, and at most ${maxBytes} were wanted`);
    });
  }

  async getRange(name: string, offset: number, length: number, signal?: AbortSignal): Promise<Buffer> {
    checkBlobName(name);
    checkRange(name, offset, length);
    if (length === 0) {
      if (await this.head(name, signal)) return Buffer.alloc(0);
      throw new BlobError('missing', `${name} could not be read: it is not there`);
    }
    return this.#try(`${name} could not be read`, signal, async (abort) => {
      const range = { ...this.#at(name), Range: `bytes=${offset}-${offset + length - 1}` };
      const answer = await this.#client.send(new GetObjectCommand(range), abort);
      if (answer.ContentRange?.startsWith(`bytes ${offset}-`) && answer.ContentLength === length)
        return readBody(answer, name, length);
      endBody(answer);
      if (answer.ContentRange === undefined)
        throw new BlobError('failed', `${name} could not be read: the store gives no ranges`);
      throw damaged(`${name} ends before ${offset + length}`);
    });
  }

  async head(name: string, signal?: AbortSignal): Promise<BlobInfo | undefined> {
    checkBlobName(name);
    const what = `${name} could not be looked at`;
    return this.#try(what, signal, async (abort) => {
      try {
        const answer = await this.#client.send(new HeadObjectCommand(this.#at(name)), abort);
        return { name, bytes: answer.ContentLength ?? 0 };
      } catch (error) {
        if (fromS3(error, what).kind !== 'missing') throw error;
      }
      // The answer to HEAD has no words: it may be the whole bucket that is not there.
      await this.#client
        .send(new HeadBucketCommand({ Bucket: this.#bucket }), abort)
        .catch((error: unknown) => {
          const failure = fromS3(error, what);
          if (failure.kind === 'missing')
            throw new BlobError(
              'refused',
              `${what}: its bucket does not exist; make it, or look at HATCH_SNAPSHOT_STORE`,
            );
          // Who may not look at the bucket can still be told that an object is not there.
          if (failure.kind !== 'refused') throw error;
        });
      return undefined;
    });
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BlobInfo> {
    const what = `what begins with "${prefix}" could not be listed`;
    for (let after: string | undefined, first = true; first || after !== undefined; first = false) {
      const page = await this.#try(what, signal, (abort) =>
        this.#client.send(
          new ListObjectsV2Command({
            Bucket: this.#bucket,
            Prefix: this.#prefix + prefix,
            ContinuationToken: after,
          }),
          abort,
        ),
      );
      for (const { Key, Size } of page.Contents ?? []) {
        const name = Key?.slice(this.#prefix.length) ?? '';
        // What others keep in the bucket is no blob.
        if (isBlobName(name)) yield { name, bytes: Size ?? 0 };
      }
      after = page.IsTruncated ? page.NextContinuationToken : undefined;
    }
  }

  async remove(name: string, signal?: AbortSignal): Promise<void> {
    checkBlobName(name);
    try {
      await this.#try(`${name} could not be removed`, signal, (abort) =>
        this.#client.send(new DeleteObjectCommand(this.#at(name)), abort),
      );
    } catch (error) {
      if (!isBlobError(error, 'missing')) throw error;
    }
  }

  close(): void {
    this.#client.destroy();
  }

  #at(name: string): { readonly Bucket: string; readonly Key: string } {
    return { Bucket: this.#bucket, Key: this.#prefix + name };
  }

  /** Tries until it is done, cannot be done, or took too long: the last error is told. A slot is not held between tries. */
  async #try<T>(
    what: string,
    signal: AbortSignal | undefined,
    work: (abort: { abortSignal?: AbortSignal }) => Promise<T>,
  ): Promise<T> {
    const until = this.#clock.steady() + this.#patienceMs;
    for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
      if (signal?.aborted) throw abortReason(signal);
      try {
        return await this.#slots.run(() => work(signal ? { abortSignal: signal } : {}), signal);
      } catch (error) {
        if (signal?.aborted) throw abortReason(signal);
        const failure = fromS3(error, what);
        const pause = wait * (0.5 + Math.random() / 2);
        const again = isBlobError(failure, 'unreachable', 'throttled');
        if (!again || this.#clock.steady() + pause > until) throw failure;
        await this.#clock.sleep(pause, signal);
      }
    }
  }
}

interface Opened {
  readonly body: Readable | Uint8Array;
  readonly bytes: number;
  readonly close: () => void;
}

/** What is put, for one try: a stream that was begun cannot be sent again. */
async function openSource(source: BlobSource, name: string): Promise<Opened> {
  if ('bytes' in source) return { body: source.bytes, bytes: source.bytes.length, close: () => undefined };
  try {
    const file = await open(source.file, 'r');
    const { size } = await file.stat();
    const body = file.createReadStream({ highWaterMark: 256 * 1024 });
    // The client hears of it too, and says so.
    body.on('error', () => undefined);
    return { body, bytes: size, close: () => body.destroy() };
  } catch (error) {
    throw fromErrno(error, `${name} could not be kept`);
  }
}

async function readBody(
  { Body: body }: GetObjectCommandOutput,
  name: string,
  length: number,
): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(length);
  let at = 0;
  if (!(body instanceof Readable))
    throw new BlobError('failed', `${name} could not be read: it came as no stream`);
  for await (const piece of body as AsyncIterable<Buffer>) {
    if (at + piece.length > length) {
      body.destroy();
      throw damaged(`${name} came with more bytes than it has`);
    }
    at += piece.copy(bytes, at);
  }
  if (at < length) throw new BlobError('unreachable', `${name} could not be read: the connection broke`);
  return bytes;
}

function endBody({ Body: body }: GetObjectCommandOutput): void {
  if (body instanceof Readable) body.destroy();
}

const quiet = (): void => undefined;

function hasHeaders(request: unknown): request is { headers: Record<string, string> } {
  return typeof request === 'object' && request !== null && 'headers' in request;
}
