import { BlobError, fromErrno, isBlobError } from './blob-error.ts';

const KEYS = 'look at HATCH_S3_ACCESS_KEY and HATCH_S3_SECRET_KEY';
const REGION = 'look at HATCH_S3_REGION and HATCH_S3_ENDPOINT';

/** What a store's own word for an error means here. The words are AWS's, and those of others that speak S3. */
const BY_CODE: Readonly<Record<string, readonly [BlobError['kind'], string]>> = {
  NoSuchKey: ['missing', 'it is not there'],
  NoSuchBucket: ['refused', 'its bucket does not exist; make it, or look at HATCH_SNAPSHOT_STORE'],
  InvalidBucketName: [
    'refused',
    'its bucket has a name the store does not take; look at HATCH_SNAPSHOT_STORE',
  ],
  InvalidAccessKeyId: ['refused', `the store does not know the access key; ${KEYS}`],
  SignatureDoesNotMatch: ['refused', `the store does not accept the secret key; ${KEYS}`],
  InvalidToken: ['refused', `the store does not accept the access key; ${KEYS}`],
  ExpiredToken: ['refused', `the access key is not valid any more; ${KEYS}`],
  CredentialsProviderError: [
    'refused',
    `there is no access key; set HATCH_S3_ACCESS_KEY and HATCH_S3_SECRET_KEY`,
  ],
  RequestTimeTooSkewed: ['refused', "this machine's clock is wrong; set it"],
  AuthorizationHeaderMalformed: ['refused', `the store is of another region; ${REGION}`],
  PermanentRedirect: ['refused', `its bucket is in another region; ${REGION}`],
  BadDigest: ['damaged', 'the bytes that arrived are not those of its checksum'],
  XAmzContentSHA256Mismatch: ['damaged', 'the bytes that arrived are not those of its checksum'],
  XAmzContentChecksumMismatch: ['damaged', 'the bytes that arrived are not those of its checksum'],
  InvalidRange: ['damaged', 'it ends before the bytes that were wanted'],
  SlowDown: ['throttled', 'the store asks for fewer requests'],
  Throttling: ['throttled', 'the store asks for fewer requests'],
  ThrottlingException: ['throttled', 'the store asks for fewer requests'],
  RequestLimitExceeded: ['throttled', 'the store asks for fewer requests'],
  TooManyRequests: ['throttled', 'the store asks for fewer requests'],
  QuotaExceeded: ['no_space', 'the store is full, or its quota is used up'],
  XMinioStorageFull: ['no_space', 'the store is full'],
  RequestTimeout: ['unreachable', 'the connection to the store was too slow'],
  OperationAborted: ['unreachable', 'the store was at something else with it'],
};

/**
 * An error of the S3 client as a BlobError; `what` begins its sentence ("a/.../p/... could not be kept"). Its cause is no more
 * than a name and a message: the client's own errors carry the request, and stores put keys and signatures into theirs.
 */
export function fromS3(error: unknown, what: string): BlobError {
  if (isBlobError(error)) return error;
  const { name, code, status } = facts(error);
  const cause = bare(error);
  const told = BY_CODE[name];
  if (told) return new BlobError(told[0], `${what}: ${told[1]} (${name})`, cause);
  if (status !== undefined) return byStatus(status, name, what, cause);
  if (code !== undefined && /CERT|SELF_SIGNED|UNABLE_TO_VERIFY|ERR_TLS/.test(code))
    return new BlobError(
      'refused',
      `${what}: the certificate of the store is not one to trust (${code})`,
      cause,
    );
  if (name === 'TimeoutError' && code === undefined)
    return new BlobError(
      'unreachable',
      `${what}: the store does not answer, or stopped in the middle`,
      cause,
    );
  // The file that was to be put.
  if (code !== undefined && error instanceof Error && 'path' in error) return fromErrno(error, what);
  if (code !== undefined)
    return new BlobError(
      'unreachable',
      `${what}: the connection to the store cannot be made, or broke (${code})`,
      cause,
    );
  return new BlobError('failed', `${what}: ${name}`, cause);
}

function byStatus(status: number, name: string, what: string, cause: Error): BlobError {
  const seen = `${status}${/^\w+$/.test(name) && !/^(Unknown|\d+|Error)/.test(name) ? ` ${name}` : ''}`;
  const [kind, why]: readonly [BlobError['kind'], string] =
    status === 404
      ? ['missing', 'it is not there']
      : status === 401 || status === 403
        ? ['refused', `the store does not allow it; ${KEYS}, and at what that key may do`]
        : status === 301 || status === 307 || status === 308
          ? ['refused', `the store sends elsewhere; ${REGION}`]
          : status === 429
            ? ['throttled', 'the store asks for fewer requests']
            : status === 507
              ? ['no_space', 'the store is full']
              : status >= 500 || status === 408
                ? ['unreachable', 'the store is in trouble of its own']
                : ['failed', 'the store does not take the request'];
  return new BlobError(kind, `${what}: ${why} (${seen})`, cause);
}

function facts(error: unknown): {
  readonly name: string;
  readonly code: string | undefined;
  readonly status: number | undefined;
} {
  if (!(error instanceof Error)) return { name: 'Error', code: undefined, status: undefined };
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined;
  const meta = '$metadata' in error ? error.$metadata : undefined;
  const status =
    typeof meta === 'object' && meta !== null && 'httpStatusCode' in meta ? meta.httpStatusCode : undefined;
  return { name: error.name, code, status: typeof status === 'number' ? status : undefined };
}

function bare(error: unknown): Error {
  const cause = new Error(error instanceof Error ? error.message : 'the client threw what is no error');
  if (error instanceof Error) cause.name = error.name;
  return cause;
}
